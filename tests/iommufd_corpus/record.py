# SPDX-License-Identifier: GPL-2.0-only
"""
Runs in the reference kernel: makes sessions and prints what it answered.

    python3.11 -m iommufd_corpus.record FIRST COUNT

Output: lines of base64 of an xz of JSON lines (:mod:`~iommufd_corpus.corpus` has the
form), between marks; and what the kernel complained about, with the session's seed.
"""

from __future__ import annotations

import base64
import json
import lzma
import os
import sys
import time
from typing import Any

from iommufd_corpus.generate import Session
from iommufd_corpus.play import Player
from iommufd_corpus.system import RealSystem


def make(system: RealSystem, seed: int) -> dict[str, Any]:
    """One session, recorded."""
    session = Session(seed)
    player = Player(system, session.huge)
    calls: list[Any] = []
    answers: list[Any] = []
    for call in session.calls:
        answer = player.play(call)
        calls.append(call)
        answers.append(answer)
        session.answer(call, answer)
    player.close()
    return {"seed": seed, "theme": session.theme, "calls": calls, "answers": answers}


# Said of how busy the computer is that emulates the guest's clock, and not of what runs in it; and of each device.
CHATTER = ("Adding to iommu group", "clocksource:", "hrtimer: interrupt took")


class KernelLog:
    """What the kernel prints while sessions run."""

    def __init__(self) -> None:
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
            if not any(words in line for words in CHATTER):
                lines.append(line)


def main() -> None:
    first, count = int(sys.argv[1]), int(sys.argv[2])
    system, log = RealSystem(scatter=True), KernelLog()
    start, packed, total = time.monotonic(), lzma.LZMACompressor(), 0
    output = b""
    for seed in range(first, first + count):
        session = make(system, seed)
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


if __name__ == "__main__":
    main()
