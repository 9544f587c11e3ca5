# SPDX-License-Identifier: GPL-2.0-only
"""Kernel code in a thread beside the main one: one at a time, and it may sleep."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from uvfio.linux.kernel.wait import Completion
from uvfio.live.borrow import Borrower
from uvfio.live.loop import Loop
from uvfio.machine import Machine
from uvfio.runtime.live import LiveRuntime
from uvfio.runtime.task import current


class Bench:
    """A machine that waits for the host, and a thread that may borrow it."""

    def __init__(self) -> None:
        self.runtime = LiveRuntime()
        self.machine = Machine(self.runtime)
        self.loop = Loop(self.runtime)
        self.runtime.idle = self.loop.idle
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.loop.inline(self.wake, lambda: os.eventfd_read(self.wake))

    def borrow(self, body: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            borrower = Borrower(self.loop, lambda: os.eventfd_write(self.wake, 1))
            borrower.inhabit(partial(self.lend, borrower, body))

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    @staticmethod
    def lend(borrower: Borrower, body: Callable[[], Any]) -> None:
        while not borrower.borrow():
            pass  # the main thread is not in poll yet
        body()
        borrower.give_back()

    def close(self) -> None:
        self.loop.stop_inline()
        self.loop.close()
        os.close(self.wake)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_the_machine_is_not_lent_while_it_runs(bench: Bench) -> None:
    lent: list[bool] = []

    def elsewhere() -> None:
        lent.append(Borrower(bench.loop, lambda: None).borrow())

    def task() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    bench.machine.run(task)
    assert lent == [False]


def test_what_it_does_wakes_who_waits_for_it(bench: Bench) -> None:
    done = Completion("done")
    seen: list[Any] = []

    def body() -> None:
        seen.append((current().machine, threading.get_ident()))
        done.complete()

    def task() -> None:
        thread = bench.borrow(body)
        done.wait_for_completion()
        seen.append(thread)

    bench.machine.run(task)
    (machine, ident), thread = seen
    thread.join()
    assert machine is bench.machine
    assert ident not in (threading.get_ident(), None)


def test_it_may_sleep_and_spawn(bench: Bench) -> None:
    started, may_go, spawned, over = (Completion(name) for name in ("started", "may_go", "spawned", "over"))
    order: list[str] = []

    def body() -> None:
        order.append("started")
        started.complete()
        may_go.wait_for_completion()
        order.append("went on")
        current().runtime.spawn(spawned.complete, "child")
        spawned.wait_for_completion()
        order.append("over")
        over.complete()

    def other() -> None:
        started.wait_for_completion()
        order.append("let it go")
        may_go.complete()

    def task() -> None:
        bench.runtime.spawn(other, "other")
        thread = bench.borrow(body)
        over.wait_for_completion()
        order.append("seen")
        threads.append(thread)

    threads: list[threading.Thread] = []
    bench.machine.run(task)
    threads[0].join()
    assert order == ["started", "let it go", "went on", "over", "seen"]


def test_a_wait_may_time_out(bench: Bench) -> None:
    never, over = Completion("never"), Completion("over")
    answers: list[Any] = []

    def body() -> None:
        answers.append(never.wait_for_completion_timeout(0.01))
        over.complete()

    def task() -> None:
        answers.append(bench.borrow(body))
        over.wait_for_completion()

    bench.machine.run(task)
    thread, answer = answers
    thread.join()
    assert answer == 0
