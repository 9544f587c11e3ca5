# SPDX-License-Identifier: GPL-2.0-only
"""Plays recorded sessions again and compares the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from corpus.player import Player
from corpus.sessions import Session

Same = Callable[[Any, Any, Any], bool]


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


def was_there(how: Any, expected: Any, got: Any) -> bool:
    """
    A difference of ``uvfio run`` that the heads of its files list: an answer that is in
    read-only memory already is not written again. *how* is an ioctl's dict.
    """
    return isinstance(how, dict) and how.get("at") == "ro" and (expected, got) == ("EFAULT", 0)


def first_mismatch(player: Player, session: Session, same: Same | None = None) -> Mismatch | None:
    """Plays *session* up to the first answer that differs, where *same* is not content with it."""
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


def play_live(sessions: Sequence[Session], make_player: Callable[[Session], Player], same: Same) -> Iterator[str]:
    """In a client of ``uvfio run``: mismatches as JSON lines, then the number of answers."""
    answers = 0
    for session in sessions:
        answers += len(session["answers"])
        found = first_mismatch(make_player(session), session, same)
        if found is not None:
            yield json.dumps({"seed": session["seed"], "index": found.index, "got": found.got})
    yield json.dumps({"answers": answers})
