# SPDX-License-Identifier: GPL-2.0-only
"""The selftest's ops over all interleavings of two tasks: its mocks keep the rules that they are there to test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selftest_machine import A0, PG, Selftest

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Judge, explore
from uvfio.machine import Machine
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import Errno, errno_name

Bodies = tuple[Callable[[], int], Callable[[], int], Callable[[], None]]


def answer(body: Callable[[], int]) -> str:
    try:
        error = body()
    except Errno as e:
        error = e.number
    return errno_name(error) if error else "ok"


def every_order(setup: Callable[[Selftest], Bodies]) -> set[Any]:
    """Explore the first two functions that *setup* answers; the third checks what is left."""

    def program(runtime: ControlledRuntime) -> Judge:
        machine = Machine(runtime, iommufd_test=True)
        machine.boot()
        t = machine.run(Selftest)
        one, two, check = machine.run(lambda: setup(t))
        tasks = [runtime.spawn(lambda: answer(one), "A"), runtime.spawn(lambda: answer(two), "B")]

        def judge() -> tuple[str, ...]:
            for task in tasks:
                if task.exception is not None:
                    raise task.exception
            machine.run(check)
            machine.run(t.process.exit)
            return tuple(str(task.result) for task in tasks)

        return judge

    result = explore(program, Dpor())
    assert result.finding is None, result.finding
    assert result.complete
    return set(result.outcomes)


def test_pin_against_unmap() -> None:
    """An unmap has the access unpin all that it has by then; it never finds a pin that nobody answers for."""

    def setup(t: Selftest) -> Bodies:
        memory = t.buffer(PG)
        t.map(t.ioas_id, memory, PG, A0, 7)
        access = t.access()

        def check() -> None:
            assert t.check_refs(memory, PG, 0) == 0

        return (
            lambda: t.test("ACCESS_PAGES", access, iova=A0, length=PG)[0],
            lambda: t.unmap(t.ioas_id, A0, PG)[0],
            check,
        )

    assert every_order(setup) == {("ok", "ok"), ("ENOENT", "ok")}


def test_replace_against_destroy() -> None:
    """The device of a call in progress stays; the one who destroys it waits."""

    def setup(t: Selftest) -> Bodies:
        stdev, _hwpt, _idev = t.mock()
        other = t.ioas()
        return lambda: t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=other)[0], lambda: t.destroy(stdev), lambda: None

    assert every_order(setup) == {("ok", "ok"), ("ENOENT", "ok"), ("ok", "EBUSY")}
