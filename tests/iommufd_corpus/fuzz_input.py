# SPDX-License-Identifier: GPL-2.0-only
"""
One input of the fuzzer: bytes that are the generator's random numbers.

What libFuzzer changes is which calls are made, on what and how they are spoilt; some
calls are the bytes themselves. An errno is never wrong here. An InternalError, a Splat
or any other exception is; but for one that Linux 7.3.4 has, too (docs/iommufd-corpus.md): it warns
of a mock device that goes while a PASID of it is attached.
"""

from __future__ import annotations

import random
from typing import Any

from corpus.model import ModelSystem

from iommufd_corpus.generate import THEMES, Session
from iommufd_corpus.inprocess import boot
from iommufd_corpus.play import Player
from uvfio.machine import Machine
from uvfio.runtime.errors import Splat

MOST_CALLS = 80
LISTED = "an object of the kernel could not be destroyed: EBUSY"


class BytesRandom(random.Random):
    """Random numbers from bytes; zeros when these have ended."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self.data = data
        self.at = 0

    def take(self, n: int) -> bytes:
        piece = self.data[self.at : self.at + n]
        self.at += n
        return piece.ljust(n, b"\0")

    def random(self) -> float:
        return int.from_bytes(self.take(1), "little") / 256

    def getrandbits(self, k: int) -> int:
        size = (k + 7) // 8
        return int.from_bytes(self.take(size), "little") & ((1 << k) - 1)

    def seed(self, *_: Any) -> None:
        """Nothing: the bytes are the seed."""


def next_call(session: Session, rng: BytesRandom, call: list[Any]) -> list[Any]:
    """*call*, or now and then one whose argument is bytes of the input."""
    if rng.take(1) >= b"\x10":
        return call
    request, size = 0x3B80 + rng.take(1)[0] % 0x22, 1 + rng.take(1)[0] % 80
    data = size.to_bytes(4, "little") + rng.take(size)
    return ["raw", "i", request, "A+0", data[: max(size, 8)].hex()]


class Fuzzer:
    """One machine for all inputs: to boot it takes longer than most of them do."""

    def __init__(self) -> None:
        self.machine: Machine = boot()

    def one_input(self, data: bytes) -> None:
        if len(data) < 4:
            return
        themes = sorted(THEMES)
        session = Session(0, themes[data[0] % len(themes)])
        rng = session.state.rng = BytesRandom(data[1:])
        try:
            self.machine.run(lambda: play(ModelSystem(), session, rng))
        except Splat as e:
            if e.message != LISTED or not any(session.state.pasids.values()):
                raise
            self.machine = boot()  # this one has a device that nobody can destroy


def play(system: ModelSystem, session: Session, rng: BytesRandom) -> None:
    player = Player(system, session.huge)
    for number, call in enumerate(session.calls):
        if rng.at >= len(rng.data) or number > MOST_CALLS:
            break
        call = next_call(session, rng, call)
        session.answer(call, player.play(call))
    for call in session.end():
        player.play(call)
    player.close()
