# SPDX-License-Identifier: GPL-2.0-only
"""
Under ``uvfio run`` this file is the client: it plays every STEP-th session and prints
mismatches as JSON lines.

    python -m vfio_corpus.replay FIRST STEP
"""

from __future__ import annotations

import sys
from typing import Any

from corpus.replaying import play_live, was_there
from corpus.sessions import Corpus
from corpus.system import RealSystem

from vfio_corpus import bench as bus
from vfio_corpus.bench import Bench
from vfio_corpus.generate import BUS
from vfio_corpus.play import Player

PORT = ("-device", "pcie-root-port,id=bridge,chassis=1")
BEHIND = ("-device", "edu,bus=bridge,addr=0.0,multifunction=on", "-device", "pci-testdev,bus=bridge,addr=0.1")
CORPUS = Corpus("vfio_corpus", boot=44, machines=((range(132), ()), (BUS, PORT + BEHIND)))


def told(call: Any, expected: Any, got: Any) -> bool:
    """What may differ under ``uvfio run``."""
    return was_there(call[-1], expected, got)


def main() -> None:
    first, step = int(sys.argv[1]), int(sys.argv[2])
    system = RealSystem(scatter=False)
    bench = Bench(system)
    behind = bench.addresses is bus.PORT
    ours = [session for session in CORPUS.load() if (session["theme"] == "bus") == behind]
    for line in play_live(ours[first::step], lambda session: Player(system, bench), told):
        print(line)


if __name__ == "__main__":
    main()
