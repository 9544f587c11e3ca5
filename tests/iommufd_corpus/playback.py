# SPDX-License-Identifier: GPL-2.0-only
"""
Runs in the reference kernel: plays lists of calls and prints its answers as JSON.

    python3.11 -m iommufd_corpus.playback FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from corpus.recording import play_each
from corpus.system import RealSystem

from iommufd_corpus.play import Player


def play_all(system: RealSystem, calls: list[Any]) -> list[Any]:
    player = Player(system, huge=True)
    answers = play_each(player, calls)
    for call in calls:  # a device that goes while a PASID is attached leaks
        if call[0] in ("PASID_ATTACH", "PASID_REPLACE"):
            player.play(["PASID_DETACH", [call[1][0], 0, call[1][2]]])
    player.close()
    return answers


def main() -> None:
    system = RealSystem(scatter=True)
    print(json.dumps([play_all(system, calls) for calls in json.loads(Path(sys.argv[1]).read_text())]))


if __name__ == "__main__":
    main()
