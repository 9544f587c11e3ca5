# SPDX-License-Identifier: GPL-2.0-only
"""Lock order, found in runs that did not hang: each with its harmless brother."""

from checked import check, check_all
from programs import Bare

from uvfio.check.lockdep import Lockdep
from uvfio.check.order import Order
from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import explore
from uvfio.linux.kernel.kernfs import (
    Attribute,
    kernfs_create_dir,
    kernfs_create_file,
    kernfs_read,
    kernfs_remove,
    kernfs_root,
)
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.kernel.srcu import Srcu
from uvfio.linux.kernel.wait import Completion
from uvfio.linux.kernel.workqueue import Work
from uvfio.runtime.policy import Fifo


def nest(*locks):
    """A task body: take *locks* in this order."""

    def body():
        if locks:
            with locks[0]:
                nest(*locks[1:])()

    return body


def test_two_orders_are_found_though_this_run_did_not_hang():
    def setup():
        a, b = Mutex("a"), Mutex("b")
        return [nest(a, b), nest(b, a)]

    finding = check(setup, Lockdep)
    assert finding.kind == "lock-order"
    assert finding.message.startswith("possible circular locking dependency detected\nB: lock(a) in body() at ")
    assert finding.message.endswith(
        """
 Possible unsafe locking scenario:

       CPU0                    CPU1
       ----                    ----
  lock(b);
                                lock(a);
                                lock(b);
  lock(a);

 *** DEADLOCK ***"""
    )


def test_both_chains_are_told_with_their_tasks():
    def setup():
        a, b = Mutex("a"), Mutex("b")
        return [nest(a, b), nest(b, a)]

    message = check(setup, Lockdep).message
    assert message.count("B: lock(a) in") == message.count("A: lock(b) in") == 1
    assert message.count("with a held since") == message.count("with b held since") == 1


def test_the_hang_itself_is_the_better_finding():
    def setup():
        a, b = Mutex("a"), Mutex("b")
        return [nest(a, b), nest(b, a)]

    assert check_all(setup, Lockdep).kind == "deadlock"


def test_one_order_is_none():
    def setup():
        a, b = Mutex("a"), Mutex("b")
        return [nest(a, b), nest(a, b)]

    assert check_all(setup, Lockdep) is None


def test_a_chain_of_three():
    def setup():
        a, b, c = Mutex("a"), Mutex("b"), Mutex("c")
        return [nest(a, b), nest(b, c), nest(c, a)]

    message = check(setup, Lockdep).message
    assert "Chain exists of:\n  c --> a --> b\n" in message


def test_what_a_gate_makes_safe_is_silent():
    def setup():
        gate, a, b = Mutex("gate"), Mutex("a"), Mutex("b")
        return [nest(gate, a, b), nest(gate, b, a)]

    assert check_all(setup, Lockdep) is None


def test_a_gate_that_one_of_them_forgets_is_none():
    def setup():
        gate, a, b = Mutex("gate"), Mutex("a"), Mutex("b")
        return [nest(gate, a, b), nest(gate, b, a), nest(b, a)]

    assert check(setup, Lockdep).kind == "lock-order"


def test_a_gate_must_be_the_same_every_time():
    def setup():
        one, other, a, b = Mutex("one"), Mutex("other"), Mutex("a"), Mutex("b")
        return [nest(one, a, b), nest(other, a, b), nest(other, b, a)]

    assert check(setup, Lockdep).kind == "lock-order"


def test_a_gate_that_lets_two_readers_in_is_none():
    def setup():
        gate, a, b = RwSemaphore("gate"), Mutex("a"), Mutex("b")

        def inside(body):
            with gate.read():
                body()

        return [lambda: inside(nest(a, b)), lambda: inside(nest(b, a))]

    assert check(setup, Lockdep).kind == "lock-order"


def test_two_gates_of_one_class_are_none():
    def setup():
        a, b = Mutex("a"), Mutex("b")
        return [nest(Mutex("gate"), a, b), nest(Mutex("gate"), b, a)]

    assert check(setup, Lockdep).kind == "lock-order"


def test_classes_not_instances():
    def setup():
        return [nest(Mutex("a"), Mutex("b")), nest(Mutex("b"), Mutex("a"))]

    assert check(setup, Lockdep).kind == "lock-order"


def test_two_of_one_class_need_a_subclass():
    def setup():
        one, other = Mutex("a"), Mutex("a")
        return [nest(one, other)]

    finding = check(setup, Lockdep)
    assert finding.kind == "lock-recursion"
    assert "may be missing lock nesting notation" in finding.message


def test_a_subclass_is_a_class():
    def setup():
        one, other = Mutex("a"), Mutex("a")

        def body():
            with one:
                other.lock_nested()
                other.unlock()

        return [body]

    assert check(setup, Lockdep) is None


def test_a_class_without_validation():
    def setup():
        one, other = Mutex("a"), Mutex("a")
        one.novalidate = other.novalidate = True
        return [nest(one, other)]

    assert check(setup, Lockdep) is None


def test_trylock_cannot_hang_but_what_is_taken_under_it_can():
    def try_then(tried, lock):
        def body():
            if tried.trylock():
                with lock:
                    pass
                tried.unlock()

        return body

    def under(lock, tried):
        def body():
            with lock:
                if tried.trylock():
                    tried.unlock()

        return body

    def harmless():
        a, b = Mutex("a"), Mutex("b")
        return [nest(a, b), under(b, a)]

    def harmful():
        a, b = Mutex("a"), Mutex("b")
        return [nest(a, b), try_then(b, a)]

    assert check_all(harmless, Lockdep) is None
    assert check(harmful, Lockdep).kind == "lock-order"


def test_a_trylock_in_vain_holds_nothing():
    def setup():
        a, b = Mutex("a"), Mutex("b")
        a.owner = object()

        def body():
            a.trylock()
            with b:
                pass

        return [nest(b), body, nest(Mutex("b"), Mutex("a"))]

    assert check(setup, Lockdep) is None


def test_readers_wait_behind_a_writer_that_waits():
    def setup():
        sem, lock = RwSemaphore("sem"), Mutex("lock")

        def read_first():
            with sem.read(), lock:
                pass

        def read_last():
            with lock, sem.read():
                pass

        return [read_first, read_last]

    assert check(setup, Lockdep).kind == "lock-order"


def test_srcu_readers_do_not_wait_for_each_other():
    def setup():
        srcu, lock = Srcu("srcu"), Mutex("lock")

        def read_first():
            with srcu.read(), lock:
                pass

        def read_last():
            with lock, srcu.read():
                pass

        return [read_first, read_last]

    assert check_all(setup, Lockdep) is None


def test_srcu_is_synchronized_under_a_lock_that_a_reader_takes():
    def setup():
        srcu, lock = Srcu("srcu"), Mutex("lock")

        def read():
            with srcu.read(), lock:
                pass

        def synchronize():
            with lock:
                srcu.synchronize()

        return [read, synchronize]

    assert "synchronize_srcu(srcu)" in check(setup, Lockdep).message


def test_work_is_flushed_under_a_lock_that_it_takes():
    def setup():
        lock = Mutex("lock")
        work = Work("work", nest(lock))

        def flush():
            work.queue()
            work.flush()
            with lock:
                work.flush()

        return [flush]

    assert "flush_work(work)" in check(setup, Lockdep).message


def sysfs(removed):
    def setup():
        lock = Mutex("lock")
        directory = kernfs_create_dir(kernfs_root().root, "device")
        attributes = [Attribute(name, 0o444, lambda: nest(lock)() or "x") for name in ("one", "two")]
        nodes = [kernfs_create_file(directory, attribute) for attribute in attributes]

        def remove():
            with lock:
                kernfs_remove(nodes[removed])

        return [lambda: kernfs_read(nodes[0]), remove]

    return setup


def test_an_attribute_is_removed_under_a_lock_that_its_handler_takes():
    assert "kernfs_drain(kn->active /sys/device/one)" in check(sysfs(0), Lockdep).message


def test_its_neighbour_may_be():
    assert check(sysfs(1), Lockdep) is None


def completion(complete_first):
    def setup():
        lock, done = Mutex("lock"), Completion("done")

        def complete():
            with lock:
                done.complete()

        def wait():
            with lock:
                done.wait_for_completion()

        return [complete, wait] if complete_first else [complete, done.wait_for_completion]

    return setup


def test_a_completion_is_waited_for_under_the_lock_that_it_is_completed_under():
    finding = check(completion(True), Lockdep)
    assert finding.message.endswith(
        """
  lock(lock);
  wait_for_completion(done);
                                lock(lock);
                                complete(done);

 *** DEADLOCK ***"""
    )
    assert check_all(completion(True), Lockdep).kind == "deadlock"


def test_a_completion_is_waited_for_without_it():
    assert check_all(completion(False), Lockdep) is None


def test_who_completes_it_first_does_not_wait():
    def setup():
        lock, done = Mutex("lock"), Completion("done")

        def both():
            with lock:
                done.complete()
                done.wait_for_completion()

        return [both]

    assert check(setup, Lockdep) is None


def test_the_order_of_other_runs_makes_no_finding_in_this_one():
    order = Order()

    def program(*names):
        def run(runtime):
            locks = Bare(runtime).run(lambda: [Mutex(name) for name in names])
            runtime.listeners.append(Lockdep(order))
            runtime.spawn(nest(*locks), "A")
            return lambda: "done"

        return run

    assert explore(program("a", "b"), Fifo()).finding is None
    assert explore(program("b", "a"), Dpor()).finding is None
