# SPDX-License-Identifier: GPL-2.0-only
"""Sessions played against a machine in this process: one for each session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from iommufd_corpus.model import ModelSystem
from iommufd_corpus.play import Player
from iommufd_corpus.replay import Mismatch, first_mismatch, plain
from uvfio.machine import Machine

T = TypeVar("T")


def boot() -> Machine:
    machine = Machine(iommufd_test=True)
    machine.boot()
    return machine


def in_machine(function: Callable[[ModelSystem], T]) -> T:
    return boot().run(lambda: function(ModelSystem()))


def replay(session: dict[str, Any]) -> Mismatch | None:
    return in_machine(lambda system: first_mismatch(system, session))


def answers_of(calls: list[Any]) -> list[Any]:
    """What the stack answers; to calls that make no sense why they do not."""

    def body(system: ModelSystem) -> list[Any]:
        player = Player(system, huge=True)
        answers = []
        for call in calls:
            try:
                answers.append(plain(player.play(call)))
            except (KeyError, IndexError, AssertionError) as error:
                answers.append(f"nonsense: {error!r}")
        return answers

    return in_machine(body)
