# SPDX-License-Identifier: GPL-2.0-only
"""Data races, by what orders two accesses and what does not."""

import pytest
from checked import check, check_all

from uvfio.check.races import Races
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.refcount import Atomic, Refcount
from uvfio.linux.kernel.rwonce import READ_ONCE
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.kernel.srcu import Srcu
from uvfio.linux.kernel.wait import Completion, WaitQueueHead
from uvfio.linux.kernel.workqueue import Work
from uvfio.linux.kernel.xarray import Xarray
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.runtime.task import current


@kstruct("x", "y", racy=("flag",))
class Cell:
    def __init__(self):
        self.x = self.y = self.flag = 0


def write(cell, field="x"):
    return lambda: setattr(cell, field, 1)


def read(cell, field="x"):
    return lambda: getattr(cell, field)


def pair(first, second, *fields):
    def setup():
        cell = kzalloc(Cell)
        return [first(cell, *fields[:1]), second(cell, *fields[1:])]

    return setup


def test_a_race_is_told_with_both_accesses():
    finding = check(pair(write, read), Races)
    assert finding.kind == "data-race"
    first, second, third, fourth = finding.message.splitlines()
    assert first.startswith("data-race in <lambda> / <lambda>")
    assert second.startswith("Cell.x: write by A in <lambda>() at ")
    assert third.startswith("Cell.x: read by B in <lambda>() at ")
    assert fourth == "nothing orders the two"


@pytest.mark.parametrize("pairing", [(write, write), (read, write), (write, read)])
def test_it_needs_one_write(pairing):
    assert check_all(pair(*pairing), Races).kind == "data-race"


def test_two_reads_are_none():
    assert check_all(pair(read, read), Races) is None


def test_two_fields_are_none():
    assert check_all(pair(write, write, "x", "y"), Races) is None


def test_a_field_that_is_meant_to_be_raced_for():
    assert check_all(pair(write, write, "flag", "flag"), Races) is None


def test_one_place_that_is_meant_to_read_it_without_a_lock():
    def read_once(cell):
        return lambda: READ_ONCE(cell, "x")

    assert check_all(pair(write, read_once), Races) is None


def test_what_was_set_up_comes_first():
    def setup():
        cell = kzalloc(Cell)
        cell.x = 1
        return [read(cell), read(cell)]

    assert check_all(setup, Races) is None


def locked(lock, do):
    def body():
        with lock:
            do()

    return body


def test_one_lock_orders():
    def setup():
        cell, m = kzalloc(Cell), Mutex("m")
        return [locked(m, write(cell)), locked(m, write(cell))]

    assert check_all(setup, Races) is None


def test_two_locks_do_not():
    def setup():
        cell = kzalloc(Cell)
        return [locked(Mutex("m"), write(cell)), locked(Mutex("k"), write(cell))]

    assert check(setup, Races).kind == "data-race"


def test_readers_of_a_semaphore_do_not_order_each_other():
    def setup():
        cell, sem = kzalloc(Cell), RwSemaphore("sem")

        def reader():
            with sem.read():
                cell.x = 1

        return [reader, reader]

    assert check(setup, Races).kind == "data-race"


def test_a_reader_and_a_writer_of_a_semaphore_do():
    def setup():
        cell, sem = kzalloc(Cell), RwSemaphore("sem")

        def reader():
            with sem.read():
                return cell.x

        def writer():
            with sem.write():
                cell.x = 1

        return [reader, writer]

    assert check_all(setup, Races) is None


def handed_over(give, take):
    """A writes and gives; B takes and reads."""

    def setup():
        cell = kzalloc(Cell)
        tools = {
            "done": Completion("done"),
            "wq": WaitQueueHead("wq"),
            "ids": Xarray("ids"),
            "count": Refcount("count", 2),
            "atomic": Atomic("atomic"),
        }

        def first():
            cell.x = 1
            give(tools)

        def second():
            if take(tools):
                return cell.x

        return [first, second]

    return setup


ORDERED = {
    "completion": (lambda t: t["done"].complete(), lambda t: t["done"].wait_for_completion() or True),
    "publication": (lambda t: t["ids"].store(1, "x"), lambda t: t["ids"].load(1)),
    "last reference": (lambda t: t["count"].dec_and_test(), lambda t: t["count"].dec_and_test()),
    "atomic read-modify-write": (lambda t: t["atomic"].inc(), lambda t: t["atomic"].cmpxchg(1, 2) == 1),
}
NOT_ORDERED = {
    "atomic_read": (lambda t: t["atomic"].inc(), lambda t: t["atomic"].read()),
    "refcount_read": (lambda t: t["count"].dec_and_test(), lambda t: t["count"].read() == 1),
    "refcount_inc": (lambda t: t["count"].inc(), lambda t: t["count"].read() == 3),
}


@pytest.mark.parametrize("name", ORDERED)
def test_handed_over(name):
    assert check_all(handed_over(*ORDERED[name]), Races) is None


@pytest.mark.parametrize("name", NOT_ORDERED)
def test_not_handed_over(name):
    assert check_all(handed_over(*NOT_ORDERED[name]), Races).kind == "data-race"


def test_a_reference_that_is_not_the_last_acquires_nothing():
    def setup():
        cell, count = kzalloc(Cell), Refcount("count", 3)

        def put_then_write():
            count.dec_and_test()
            cell.x = 1

        def write_then_put():
            cell.x = 1
            count.dec_and_test()

        return [write_then_put, put_then_write]

    assert check(setup, Races).kind == "data-race"


def test_spawned_and_flushed():
    def setup():
        cell = kzalloc(Cell)
        work = Work("work", write(cell))

        def body():
            cell.x = 1
            work.queue()
            work.flush()
            return cell.x

        return [body]

    assert check_all(setup, Races) is None


def test_spawned_and_not_waited_for():
    def setup():
        cell = kzalloc(Cell)

        def body():
            current().runtime.spawn(write(cell), "child")
            return cell.x

        return [body]

    assert check(setup, Races).kind == "data-race"


def test_srcu_orders_what_was_before_it_was_synchronized():
    def setup():
        cell, pointer, srcu = kzalloc(Cell), Xarray("pointer"), Srcu("srcu")
        pointer.store(1, cell)

        def reader():
            with srcu.read():
                found = pointer.load(1)
                return found and found.x

        def writer():
            pointer.erase(1)
            srcu.synchronize()
            kfree(cell)

        return [reader, writer]

    assert check_all(setup, Races) is None


def test_a_free_that_nothing_orders_is_told_before_it_is_a_use_after_it():
    def setup():
        cell = kzalloc(Cell)
        return [read(cell), lambda: kfree(cell)]

    finding = check(setup, Races)
    assert "Cell.x: free by B in " in finding.message
    assert check_all(setup, Races).kind == "use-after-free"


def test_published_before_it_was_filled_in():
    def setup():
        shared = Xarray("shared")

        def publish():
            cell = kzalloc(Cell)
            shared.store(1, cell)
            cell.x = 1

        def look():
            cell = shared.load(1)
            return cell and cell.x

        return [publish, look]

    assert check_all(setup, Races).kind == "publish-before-init"


def test_published_when_it_was_filled_in():
    def setup():
        shared = Xarray("shared")

        def publish():
            cell = kzalloc(Cell)
            cell.x = 1
            shared.store(1, cell)

        def look():
            cell = shared.load(1)
            return cell and cell.x

        return [publish, look]

    assert check_all(setup, Races) is None
