# SPDX-License-Identifier: GPL-2.0-only
"""
Runs in the reference kernel: makes sessions and prints what it answered.

Output: lines of base64 of an xz of JSON lines (:mod:`~corpus.sessions` has the form),
between marks; and what the kernel complained about, with the session's seed.
"""

from __future__ import annotations

import base64
import json
import lzma
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from corpus.player import Player

# Said of how busy the computer is that emulates the guest's clock, and not of what runs in it; and of each device.
CHATTER = ("Adding to iommu group", "clocksource:", "hrtimer: interrupt took")


class Generator(Protocol):
    """Calls, one by one; ``answer`` must be told what came of the last."""

    seed: int
    theme: str
    calls: Iterator[list[Any]]

    def answer(self, call: list[Any], answer: Any) -> None: ...


class KernelLog:
    """What the kernel prints while sessions run; lines with *chatter* in them are not said."""

    def __init__(self, chatter: tuple[str, ...] = CHATTER) -> None:
        self.chatter = chatter
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def read(self) -> list[str]:
        lines = []
        while True:
            try:
                record = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return lines
            line = record.split(";", 1)[1].split("\n")[0]
            if not any(words in line for words in self.chatter):
                lines.append(line)


def make(player: Player, session: Generator) -> dict[str, Any]:
    """One session, recorded."""
    calls: list[Any] = []
    answers: list[Any] = []
    for call in session.calls:
        answer = player.play(call)
        calls.append(call)
        answers.append(answer)
        session.answer(call, answer)
    player.close()
    return {"seed": session.seed, "theme": session.theme, "calls": calls, "answers": answers}


def record(make_session: Callable[[int], dict[str, Any]], seeds: range, log: KernelLog) -> None:
    """Make and print a session for each of the *seeds*."""
    start, packed, total = time.monotonic(), lzma.LZMACompressor(), 0
    output = b""
    for seed in seeds:
        session = make_session(seed)
        total += len(session["answers"])
        output += packed.compress(json.dumps(session, separators=(",", ":")).encode() + b"\n")
        complaints = log.read()
        if complaints:
            print(f"KERNEL {seed}", *complaints, sep="\nKERNEL ")
    output += packed.flush()
    print(f"TIME {total} answers in {time.monotonic() - start:.0f} s")
    print("BEGIN")
    text = base64.b64encode(output).decode()
    for at in range(0, len(text), 120):
        print(text[at : at + 120])
    print("END", flush=True)


def play_each(player: Player, calls: list[Any]) -> list[Any]:
    """The answers; a call that has lost what it refers to is answered with why."""
    answers: list[Any] = []
    for call in calls:
        try:
            answers.append(player.play(call))
        except (KeyError, IndexError, AssertionError) as error:
            answers.append(f"nonsense: {error!r}")
    return answers
