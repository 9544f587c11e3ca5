# SPDX-License-Identifier: GPL-2.0-only
"""
Runs in the reference kernel: makes sessions and prints what it answered (:mod:`corpus.recording`).

    python3.11 -m vfio_corpus.record FIRST COUNT
"""

from __future__ import annotations

import sys
from typing import Any

from corpus import recording
from corpus.system import RealSystem

from vfio_corpus.bench import Bench
from vfio_corpus.generate import Session
from vfio_corpus.play import Player

SETTLE = 20  # milliseconds: more than an interrupt of the emulated devices takes
# What the kernel says of devices that are used, and of DMA to where nothing is mapped.
CHATTER = (*recording.CHATTER, "ACPI:", "vfio-pci 0000:", "pci 0000:", "DMAR:", "dmar_fault", "vfio_pin_pages_remote")


def reference() -> Bench:
    """The devices of the reference machine."""
    return Bench(RealSystem(scatter=True, settle=SETTLE))


def main() -> None:
    first, count = int(sys.argv[1]), int(sys.argv[2])
    bench = reference()

    def make(seed: int) -> dict[str, Any]:
        return recording.make(Player(bench.system, bench), Session(seed))

    recording.record(make, range(first, first + count), recording.KernelLog(CHATTER))


if __name__ == "__main__":
    main()
