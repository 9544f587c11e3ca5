# SPDX-License-Identifier: GPL-2.0-only
"""Sessions played against a machine in this process: one for each session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from corpus.model import ModelSystem
from corpus.recording import play_each
from corpus.replaying import Mismatch, first_mismatch, plain

from iommufd_corpus.play import Player
from iommufd_corpus.replay import is_huge
from uvfio.machine import Machine

T = TypeVar("T")


def boot() -> Machine:
    machine = Machine(iommufd_test=True)
    machine.boot()
    return machine


def in_machine(function: Callable[[ModelSystem], T]) -> T:
    return boot().run(lambda: function(ModelSystem()))


def replay(session: dict[str, Any]) -> Mismatch | None:
    return in_machine(lambda system: first_mismatch(Player(system, is_huge(session["calls"])), session))


def answers_of(calls: list[Any]) -> list[Any]:
    """What the stack answers; to calls that make no sense why they do not."""
    answers: list[Any] = in_machine(lambda system: plain(play_each(Player(system, huge=True), calls)))
    return answers
