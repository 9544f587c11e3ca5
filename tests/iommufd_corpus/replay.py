# SPDX-License-Identifier: GPL-2.0-only
"""
Under ``uvfio run`` this file is the client: it plays every STEP-th session and prints
mismatches as JSON lines.

    python -m iommufd_corpus.replay FIRST STEP
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from corpus.replaying import play_live, was_there
from corpus.sessions import Corpus, Session
from corpus.system import RealSystem

from iommufd_corpus.play import Player

CORPUS = Corpus("iommufd_corpus", boot=40, machines=((range(320), ()),))
IOMMUFD_TYPE = 0x3B


def is_huge(calls: Iterable[Any]) -> bool:
    return any('"H+' in json.dumps(call) for call in calls)


def told(call: Any, expected: Any, got: Any) -> bool:
    """What may differ under ``uvfio run``; ioctls of other types are the host's."""
    if call[0] == "raw":
        return call[2] >> 8 & 0xFF != IOMMUFD_TYPE and got == "ENOTTY"
    return was_there(call[-1], expected, got)


def live_part(session: Session) -> Session:
    """A session up to where it unmaps private memory: pinned or not, that is then gone under ``uvfio run``."""
    calls = session["calls"]
    end = calls.index(["drop", "P"]) if ["drop", "P"] in calls else len(calls)
    # What Linux leaks (a device that goes while a PASID is attached) must not reach the next session.
    after = [call for call in calls[end:] if call[0] == "PASID_DETACH"]
    return {**session, "calls": calls[:end], "answers": session["answers"][:end], "after": after}


def main() -> None:
    first, step = int(sys.argv[1]), int(sys.argv[2])
    huge = int(Path("/proc/sys/vm/nr_hugepages").read_text()) > 0
    system = RealSystem(scatter=False)
    sessions = [live_part(session) for session in CORPUS.load()[first::step]]
    sessions = [session for session in sessions if huge or not is_huge(session["calls"])]
    for line in play_live(sessions, lambda session: Player(system, is_huge(session["calls"])), told):
        print(line)


if __name__ == "__main__":
    main()
