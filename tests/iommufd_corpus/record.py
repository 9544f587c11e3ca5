# SPDX-License-Identifier: GPL-2.0-only
"""
Runs in the reference kernel: makes sessions and prints what it answered (:mod:`corpus.recording`).

    python3.11 -m iommufd_corpus.record FIRST COUNT
"""

from __future__ import annotations

import sys
from typing import Any

from corpus import recording
from corpus.system import RealSystem

from iommufd_corpus.generate import Session
from iommufd_corpus.play import Player


def main() -> None:
    first, count = int(sys.argv[1]), int(sys.argv[2])
    system = RealSystem(scatter=True)

    def make(seed: int) -> dict[str, Any]:
        session = Session(seed)
        return recording.make(Player(system, session.huge), session)

    recording.record(make, range(first, first + count), recording.KernelLog())


if __name__ == "__main__":
    main()
