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

from iommufd_corpus.play import Player
from iommufd_corpus.system import RealSystem


def play_all(system: RealSystem, calls: list[Any]) -> list[Any]:
    """The answers; a call that has lost what it refers to is answered with why."""
    player = Player(system, huge=True)
    answers: list[Any] = []
    for call in calls:
        try:
            answers.append(player.play(call))
        except (KeyError, IndexError, AssertionError) as error:
            answers.append(f"nonsense: {error!r}")
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
