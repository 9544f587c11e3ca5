# SPDX-License-Identifier: GPL-2.0-only
"""
Plays recorded sessions again and compares the answers.

In process each session has a machine of its own. Under ``uvfio run`` this file is the
client (``python -m iommufd_corpus.replay FIRST STEP``): it plays every STEP-th session
and prints mismatches as JSON lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iommufd_corpus import corpus
from iommufd_corpus.corpus import Session
from iommufd_corpus.play import Player
from iommufd_corpus.system import RealSystem, System

IOMMUFD_TYPE = 0x3B


@dataclass
class Mismatch:
    """The first answer of a session that differs."""

    session: Session
    index: int
    got: Any

    def __str__(self) -> str:
        calls, answers = self.session["calls"], self.session["answers"]
        lines = [f"session {self.session['seed']} ({self.session['theme']}), call {self.index} of {len(calls)}:"]
        lines += [f"    {shown(c)} -> {shown(a)}" for c, a in zip(calls[: self.index], answers, strict=False)]
        lines += [f"  * {shown(calls[self.index])}", f"      Linux: {shown(answers[self.index])}"]
        return "\n".join([*lines, f"      uvfio: {shown(self.got)}"])


def shown(value: Any) -> str:
    return json.dumps(value, separators=(", ", ":"))


def plain(answer: Any) -> Any:
    """An answer as it looks when it has been kept."""
    return json.loads(json.dumps(answer))


def is_huge(calls: Iterable[Any]) -> bool:
    return any('"H+' in json.dumps(call) for call in calls)


def first_mismatch(
    system: System, session: Session, same: Callable[[Any, Any, Any], bool] | None = None
) -> Mismatch | None:
    """Plays *session* up to the first answer that differs, where *same* is not content with it."""
    player = Player(system, is_huge(session["calls"]))
    try:
        for index, (call, expected) in enumerate(zip(session["calls"], session["answers"], strict=True)):
            got = plain(player.play(call))
            if got != expected and (same is None or not same(call, expected, got)):
                return Mismatch(session, index, got)
        for call in session.get("after", ()):
            player.play(call)
    finally:
        player.close()
    return None


def told(call: Any, expected: Any, got: Any) -> bool:
    """
    Differences of ``uvfio run`` that the heads of its files list: an answer that is in
    read-only memory already is not written again, and ioctls of other types are the host's.
    """
    if call[0] == "raw":
        return call[2] >> 8 & 0xFF != IOMMUFD_TYPE and got == "ENOTTY"
    return (
        len(call) > 2 and isinstance(call[2], dict) and call[2].get("at") == "ro" and (expected, got) == ("EFAULT", 0)
    )


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
    answers = 0
    for session in map(live_part, corpus.load()[first::step]):
        if is_huge(session["calls"]) and not huge:
            continue
        answers += len(session["answers"])
        found = first_mismatch(system, session, told)
        if found is not None:
            print(json.dumps({"seed": session["seed"], "index": found.index, "got": found.got}))
    print(json.dumps({"answers": answers}))


if __name__ == "__main__":
    main()
