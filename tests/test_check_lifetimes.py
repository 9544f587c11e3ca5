# SPDX-License-Identifier: GPL-2.0-only
"""What happens once, what stays dead, what is left, and who gets nowhere."""

import pytest
from checked import check, check_all

from uvfio.check.leaks import Leaks
from uvfio.check.lifetimes import Lifetimes
from uvfio.check.progress import Progress
from uvfio.linux.kernel.fs import FileOperations, anon_inode_getfile, fput_sync, get_file
from uvfio.linux.kernel.kernfs import Attribute, kernfs_create_dir, kernfs_create_file, kernfs_remove, kernfs_root
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.refcount import Refcount
from uvfio.linux.kernel.wait import Completion
from uvfio.linux.kernel.xarray import Ida, Xarray
from uvfio.runtime.errors import Errno
from uvfio.runtime.policy import Fifo
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.runtime.task import current


@kstruct()
class Thing:
    pass


def task(body):
    """A set-up of one task."""
    return lambda: [body]


def a_file():
    return anon_inode_getfile("[toy]", FileOperations(), None, 0)


# Lifetimes


def test_a_file_is_released_once():
    def body():
        file = a_file()
        get_file(file)
        fput_sync(file)
        fput_sync(file)

    assert check(task(body), Lifetimes) is None


def test_a_file_is_released_again():
    def body():
        file = a_file()
        fput_sync(file)
        file.f_count.value = 1
        fput_sync(file)

    finding = check(task(body), Lifetimes)
    assert finding.kind == "exactly-once"
    assert finding.message.startswith("<file [toy]> is released by A, and was by A in body() at ")


@pytest.mark.parametrize("calls", [("removed",), ("probed", "removed", "removed")])
def test_a_driver_is_told_to_let_go_of_what_it_has_not(calls):
    def body():
        for call in calls:
            current().runtime.note(call, device, "r")

    device = Mutex("device")
    assert check(task(body), Lifetimes).kind == "exactly-once"


def test_a_driver_may_be_bound_again():
    def body():
        for call in ("probed", "removed") * 2:
            current().runtime.note(call, device, "r")

    device = Mutex("device")
    assert check(task(body), Lifetimes) is None


def test_a_reference_count_is_revived():
    def body():
        count = Refcount("kvm.users_count")
        count.dec_and_test()
        count.set(1)

    finding = check(task(body), Lifetimes)
    assert finding.kind == "resurrection"
    assert "A revives kvm.users_count=0 in body() at " in finding.message


def test_a_reference_count_is_set_while_it_lives():
    def body():
        count = Refcount("count")
        count.set(2)
        count.dec_and_test()
        count.set(1)

    assert check(task(body), Lifetimes) is None


def test_two_of_one_name():
    def body():
        root = kernfs_root().root
        kernfs_create_dir(root, "vfio0")
        with pytest.raises(Errno, match="EEXIST"):
            kernfs_create_dir(root, "vfio0")

    assert check(task(body), Lifetimes).kind == "id-alias"


def test_one_after_the_other_of_one_name():
    def body():
        root = kernfs_root().root
        kernfs_remove(kernfs_create_dir(root, "vfio0"))
        kernfs_create_dir(root, "vfio0")

    assert check(task(body), Lifetimes) is None


def test_an_id_is_freed_twice():
    def body():
        ida = Ida("minors")
        ida.free(ida.alloc())
        ida.free(0)

    finding = check(task(body), Lifetimes)
    assert (finding.kind, finding.message) == ("warning", "ida_free called for id=0 which is not allocated")


# Leaks


def test_a_structure_is_left():
    assert check(task(lambda: kzalloc(Thing)), Leaks).message == "still allocated: 1 Thing"


def test_a_structure_is_freed():
    assert check_all(task(lambda: kfree(kzalloc(Thing))), Leaks) is None


def test_a_file_is_left():
    assert check(task(a_file), Leaks).message == "never released: 1 File <file [toy]>"


def test_an_attribute_is_left_in_sysfs():
    def body():
        kernfs_create_file(kernfs_root().root, Attribute("dev", 0o444, lambda: ""))

    assert check(task(body), Leaks).message == "still in sysfs: 1 KernfsNode /sys/dev"


def test_its_directory_goes_and_it_with_it():
    def body():
        directory = kernfs_create_dir(kernfs_root().root, "device")
        kernfs_create_file(directory, Attribute("dev", 0o444, lambda: ""))
        kernfs_remove(directory)

    assert check(task(body), Leaks) is None


def counted(change):
    def setup():
        count, ids = Refcount("module mdev", 2), Xarray("minors")
        ids.entries[0] = "x"  # before anybody listened
        return [lambda: change(count, ids)]

    return setup


def test_a_reference_is_left():
    message = check(counted(lambda count, ids: count.inc()), Leaks).message
    assert message == "module mdev=3 must be left with 2 as it was, not 3"


def test_a_reference_is_dropped():
    def change(count, ids):
        count.inc()
        count.dec()
        count.dec()

    assert check(counted(change), Leaks) is None


def test_an_id_is_left():
    message = check(counted(lambda count, ids: ids.alloc("y")), Leaks).message
    assert message == "minors must be left with ids 0 as it was, not ids 0, 1"


def test_an_id_is_given_back():
    assert check(counted(lambda count, ids: ids.erase(ids.alloc("y"))), Leaks) is None


def test_a_lock_is_left():
    def setup():
        lock = Mutex("lock")

        def body():
            lock.lock()
            kfree(kzalloc(Thing))

        return [body]

    finding = check(setup, Leaks)
    assert (finding.kind, finding.message) == ("lock-held", "A has ended, and holds lock")


# Progress


class RoundRobin(Fifo):
    """Everybody gets a turn."""

    def choose(self, runnable, current):
        if current not in runnable:
            return runnable[0]
        return runnable[(runnable.index(current) + 1) % len(runnable)]


def until(lock, condition):
    def body():
        while not condition():
            with lock:
                pass

    return body


def test_two_wait_for_each_other_actively():
    def setup():
        lock = Mutex("lock")
        return [until(lock, lambda: False), until(lock, lambda: False)]

    finding = check(setup, lambda: Progress(50), RoundRobin())
    assert finding.kind == "livelock"
    assert finding.message.startswith("A, B did nothing new in 50 steps, with everybody getting turns")


def test_who_starves_is_named():
    def setup():
        lock, never = Mutex("lock"), Completion("never")
        return [until(lock, lambda: False), never.wait_for_completion]

    finding = check(setup, lambda: Progress(50), RoundRobin())
    assert finding.message.endswith("; starving: B (wait_for_completion never)")


def test_a_long_way_is_no_circle():
    def setup():
        lock = Mutex("lock")
        left = iter(range(200))
        return [until(lock, lambda: next(left, None) is None)]

    assert check(setup, lambda: Progress(500), RoundRobin()) is None


def test_an_unfair_circle_is_not_judged():
    done = []

    class Unfair(Fifo):
        def choose(self, runnable, current):
            return runnable[-1] if len(done) > 300 else runnable[0]

    def setup():
        lock = Mutex("lock")

        def spin():
            done.append(1)
            return len(done) > 400 or "B" in done

        def other():
            with lock:
                done.append("B")

        return [until(lock, spin), other]

    assert check(setup, lambda: Progress(50), Unfair()) is None
