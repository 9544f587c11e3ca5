# SPDX-License-Identifier: GPL-2.0-only
"""One contract, run under every policy: nothing may be true in the explorer only."""

import re
from errno import EBUSY

import pytest
from programs import Bare

from uvfio.check.leaks import Leaks
from uvfio.explore.dfs import Dfs
from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import explore
from uvfio.linux.kernel.fs import File, FileOperations, fput, fput_sync, get_file, run_task_works
from uvfio.linux.kernel.module import (
    export_symbol,
    load_module,
    module_put,
    symbol_get,
    symbol_put,
    try_module_get,
    unload_module,
)
from uvfio.linux.kernel.mutex import Mutex, Spinlock
from uvfio.linux.kernel.refcount import Atomic, Kref, Refcount
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.kernel.srcu import Srcu
from uvfio.linux.kernel.wait import Completion, WaitQueueHead
from uvfio.linux.kernel.workqueue import Work
from uvfio.linux.kernel.xarray import XA_ZERO_ENTRY, Ida, Xarray
from uvfio.runtime.errors import Errno, InternalError, Splat
from uvfio.runtime.live import LiveRuntime
from uvfio.runtime.policy import Pct, RandomWalk
from uvfio.runtime.struct import kstruct, kzalloc
from uvfio.runtime.task import current, per_machine

POLICIES = {
    "dfs": lambda: Dfs(2),
    "dpor": Dpor,
    "pct": lambda: Pct(1, 50),
    "random": lambda: RandomWalk(1, 50),
}


def live(body):
    """Run *body* in a task of a fresh live machine; its answer."""
    return Bare(LiveRuntime()).run(body)


def tasks_of(make):
    """A program: *make()* answers the tasks' bodies and a judge of the whole."""

    def run(runtime):
        bodies, judge = Bare(runtime).run(make)
        for name, body in zip("ABC", bodies, strict=False):
            runtime.spawn(body, name)
        return judge

    return run


@pytest.fixture(params=["live", *POLICIES])
def outcomes(request):
    """A function that runs a program under one policy; what it answered, over all runs."""

    def under(make):
        if request.param == "live":

            def main():
                bodies, judge = make()
                tasks = [current().runtime.spawn(body, name) for name, body in zip("ABC", bodies, strict=False)]
                current().runtime.point("join", tasks, ready=lambda: all(task.done for task in tasks))
                for task in tasks:
                    if task.exception is not None:
                        raise task.exception
                return {judge()}

            return live(main)
        result = explore(tasks_of(make), POLICIES[request.param]())
        assert result.finding is None, result.finding
        return set(result.outcomes)

    return under


def exclusive(enter, leave):
    """Three tasks, each inside for a while; the judge says how many ever were together."""

    def make():
        inside, most = [], [0]

        def body():
            enter()
            inside.append(1)
            current().runtime.point("inside", inside)
            most[0] = max(most[0], len(inside))
            inside.pop()
            leave()

        return [body] * 2, lambda: most[0]

    return make


LOCKS = {
    "mutex": lambda: (lock := Mutex("m")) and (lock.lock, lock.unlock),
    "spinlock": lambda: (lock := Spinlock("s")) and (lock.lock, lock.unlock),
    "rwsem for writing": lambda: (sem := RwSemaphore("r")) and (sem.down_write, sem.up_write),
}


@pytest.mark.parametrize("lock", LOCKS)
def test_one_at_a_time(lock, outcomes):
    def make():
        return exclusive(*LOCKS[lock]())()

    assert outcomes(make) == {1}


def test_readers_are_together():
    def make():
        sem = RwSemaphore("r")
        return exclusive(sem.down_read, sem.up_read)()

    assert 2 in explore(tasks_of(make), Dpor()).outcomes


def test_a_waiting_writer_shuts_readers_out():
    def body():
        sem = RwSemaphore("r")
        sem.down_read()
        runtime = current().runtime
        writer = runtime.spawn(lambda: (sem.down_write(), sem.up_write()), "writer")
        runtime.point("until the writer waits", sem, ready=lambda: bool(sem.queue))
        assert not sem.down_read_trylock()
        sem.up_read()
        runtime.point("join", writer, ready=lambda: writer.done)
        assert sem.down_read_trylock()

    live(body)


def test_recursive_reading_deadlocks_behind_a_writer():
    def make():
        sem = RwSemaphore("r")

        def twice():
            with sem.read(), sem.read():
                pass

        return [twice, lambda: (sem.down_write(), sem.up_write())], lambda: "done"

    finding = explore(tasks_of(make), Dpor()).finding
    assert finding is not None
    assert finding.kind == "deadlock"


def test_complete_before_or_after_the_wait(outcomes):
    def make():
        done = Completion("done")
        return [done.wait_for_completion, done.complete], lambda: done.done

    assert outcomes(make) == {0}


def test_a_timeout_is_a_branch():
    def make():
        done, seen = Completion("done"), []
        return [lambda: seen.append(done.wait_for_completion_timeout(10)), done.complete], lambda: seen[0]

    assert set(explore(tasks_of(make), Dpor()).outcomes) == {True, False}


def test_a_live_timeout_passes():
    assert live(lambda: Completion("never").wait_for_completion_timeout(0.001)) is False
    assert live(lambda: WaitQueueHead("wq").wait_event_timeout(lambda: False, 0.001)) is False


def test_wait_event_returns_at_once_when_it_holds():
    assert live(lambda: WaitQueueHead("wq").wait_event_timeout(lambda: True, None)) is True


def test_synchronize_srcu_waits_for_readers_before_it_only(outcomes):
    def make():
        srcu, log = Srcu("s"), []

        def reader():
            with srcu.read():
                log.append("in")
                current().runtime.point("reading", srcu, "r")
                log.append("out")

        def updater():
            seen = list(log)
            srcu.synchronize()
            if seen == ["in"]:
                assert log == ["in", "out"]

        return [reader, updater], lambda: "ok"

    assert outcomes(make) == {"ok"}


def test_work_runs_once_for_each_queueing(outcomes):
    def make():
        runs = []
        work = Work("w", lambda: runs.append(1))

        def body():
            assert work.queue()
            work.flush()
            assert work.queue()
            work.flush()

        return [body], lambda: len(runs)

    assert outcomes(make) == {2}


def test_cancelled_work_does_not_run():
    def body():
        runs = []
        work = Work("w", lambda: runs.append(1))
        work.queue()
        assert work.cancel_sync()
        work.flush()
        return runs

    assert live(body) == []


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: Refcount("r", 0).inc(), "refcount: r: addition on 0; use-after-free"),
        (lambda: Refcount("r", 0).dec_and_test(), "refcount: r: underflow; use-after-free"),
        (lambda: Refcount("r", 1).dec(), "refcount: r: decrement hit 0; leaking memory"),
        (lambda: Mutex("m").unlock(), "bad-unlock: kthread unlocks m, which None holds"),
        (lambda: RwSemaphore("r").up_read(), "bad-unlock: kthread releases r, which it does not hold for reading"),
        (lambda: symbol_put("nobody"), "bug: symbol_put of nobody, which no module exports"),
    ],
)
def test_a_broken_rule_is_a_splat(what, message):
    with pytest.raises(Splat, match=re.escape(message)):
        live(what)


def test_reference_counts():
    def body():
        r = Refcount("r")
        assert r.inc_not_zero()
        assert not r.dec_if_one()
        assert not r.dec_and_test()
        assert not r.dec_not_one()
        assert r.dec_if_one()
        assert not r.inc_not_zero()
        released = []
        kref = Kref("k")
        kref.get()
        assert not kref.put(released.append, "obj")
        assert kref.put(released.append, "obj")
        assert released == ["obj"]
        a = Atomic("a", 3)
        assert (a.cmpxchg(3, 5), a.cmpxchg(3, 6), a.read()) == (3, 5, 5)

    live(body)


def test_the_last_put_takes_the_lock(outcomes):
    def make():
        users, lock, last = Refcount("users", 2), Mutex("lock"), []

        def put():
            if users.dec_and_mutex_lock(lock):
                last.append(1)
                lock.unlock()

        return [put, put], lambda: len(last)

    assert outcomes(make) == {1}


def test_ids_are_the_lowest_free_and_reservations_are_seen_as_nothing():
    def body():
        xa = Xarray("xa", first=1)
        assert [xa.alloc(n) for n in "abc"] == [1, 2, 3]
        xa.erase(2)
        xa.erase(1)
        assert xa.alloc(XA_ZERO_ENTRY) == 1
        assert xa.load(1) is None
        assert xa.alloc("d") == 2
        assert dict(xa.items()) == {2: "d", 3: "c"}
        with pytest.raises(Errno, match="EBUSY"):
            xa.insert(1, "e")
        assert xa.cmpxchg(1, XA_ZERO_ENTRY, "e") is None
        assert xa.load(1) == "e"
        assert xa.cmpxchg(3, "x", "y") == "c"
        assert xa.load(3) == "c"
        xa.set_mark(3, 0)
        xa.erase(3)
        assert not xa.get_mark(3, 0)
        ida = Ida("ida")
        assert [ida.alloc(1), ida.alloc(1)] == [0, 1]
        with pytest.raises(Errno) as full:
            ida.alloc(1)
        assert full.value.number == EBUSY
        ida.free(0)
        assert ida.alloc(1) == 0

    live(body)


def test_modules_are_pinned_by_symbols():
    def body():
        kvm = load_module("kvm")

        def kvm_put_kvm():
            return "put"

        export_symbol(kvm, kvm_put_kvm)
        assert symbol_get("nothing") is None
        got = symbol_get("kvm_put_kvm")
        assert got is not None
        assert got() == "put"
        assert not unload_module(kvm)
        symbol_put("kvm_put_kvm")
        assert try_module_get(kvm)
        module_put(kvm)
        assert unload_module(kvm)
        assert symbol_get("kvm_put_kvm") is None

    live(body)


class Noted(FileOperations):
    def __init__(self, log):
        self.log = log

    def release(self, file):
        self.log.append("released")


def test_fput_is_deferred_and_fput_sync_is_not():
    def body():
        log = []
        file = File(Noted(log))
        fput_sync(get_file(file))
        assert log == []
        fput_sync(file)
        assert log == ["released"]
        task = current()
        task.process = object()
        fput(File(Noted(log)))
        assert log == ["released"]
        run_task_works()
        task.process = None
        assert log == ["released", "released"]
        fput(File(Noted(log)))  # from a kernel thread: a work item
        task.runtime.point("until it ran", log, ready=lambda: len(log) == 3)

    live(body)


def test_statics_belong_to_the_machine():
    counter = per_machine(list)

    def body():
        counter().append(1)
        return len(counter())

    assert [live(body), live(body)] == [1, 1]


def test_kernel_code_outside_of_a_task_is_our_bug():
    with pytest.raises(InternalError, match=re.escape("kernel code must run in a task")):
        Mutex("m").lock()


def test_a_machine_that_hangs_says_who_waits():
    with pytest.raises(InternalError, match="kthread waits for wait_for_completion never"):
        live(lambda: Completion("never").wait_for_completion())


@kstruct()
class Thing:
    pass


def test_what_is_not_freed_is_a_leak():
    def make():
        return [lambda: kzalloc(Thing)], lambda: leaks.check()

    leaks = Leaks()
    finding = explore(tasks_of(make), RandomWalk(1, 1), listeners=lambda: [leaks]).finding
    assert finding is not None
    assert (finding.kind, finding.message) == ("leak", "still allocated: 1 Thing")
