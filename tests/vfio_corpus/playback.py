# SPDX-License-Identifier: GPL-2.0-only
"""
Runs in the reference kernel: plays lists of calls and prints its answers as JSON.

    python3.11 -m vfio_corpus.playback FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from corpus.recording import play_each

from vfio_corpus.bench import Bench
from vfio_corpus.play import Player
from vfio_corpus.record import reference


def play_all(bench: Bench, calls: list[Any]) -> list[Any]:
    player = Player(bench.system, bench)
    answers = play_each(player, calls)
    player.close()
    return answers


def main() -> None:
    bench = reference()
    print(json.dumps([play_all(bench, calls) for calls in json.loads(Path(sys.argv[1]).read_text())]))


if __name__ == "__main__":
    main()
