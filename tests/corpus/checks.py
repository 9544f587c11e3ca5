# SPDX-License-Identifier: GPL-2.0-only
"""What is tested of every corpus. What they find is an AssertionError."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from shared import need

from corpus.replaying import Mismatch
from corpus.sessions import Corpus, Session, dump

ASKED_AGAIN = range(3, 6)


def check_size(sessions: Sequence[Session], answers: int, themes: Collection[str]) -> None:
    """There are so many *answers* in all, one for each call, and sessions of all *themes*."""
    there = sum(len(session["answers"]) for session in sessions)
    assert there == answers, f"{there} answers"
    assert all(len(session["calls"]) == len(session["answers"]) for session in sessions)
    assert {session["theme"] for session in sessions} == set(themes)


def check_replay(
    sessions: Sequence[Session], theme: str, fewest: int, replay: Callable[[Session], Mismatch | None]
) -> None:
    """The *fewest* sessions or more are of *theme*, and none is answered otherwise."""
    of_theme = [session for session in sessions if session["theme"] == theme]
    assert len(of_theme) >= fewest, f"{len(of_theme)} sessions"
    found = [mismatch for session in of_theme if (mismatch := replay(session)) is not None]
    assert not found, "\n\n".join(map(str, found))


def check_recording(corpus: Corpus, sessions: Sequence[Session]) -> None:
    """The reference kernel, asked again, gives the same bytes, and does not complain."""
    [(again, complaints)] = corpus.record(need("oracle") / "oracle", ASKED_AGAIN)
    assert not complaints, complaints
    assert dump(again) == dump([session for session in sessions if session["seed"] in ASKED_AGAIN])
