# SPDX-License-Identifier: GPL-2.0-only
"""The tree behind sysfs: links as readlink shows them, and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EEXIST, EIO, ENODEV, ENOENT

import pytest
from bare_machine import BareMachine

from uvfio.linux.kernel.kernfs import (
    Attribute,
    BinAttribute,
    KernfsNode,
    kernfs_create_dir,
    kernfs_create_file,
    kernfs_create_link,
    kernfs_find,
    kernfs_fop_open,
    kernfs_link_target,
    kernfs_read,
    kernfs_remove,
    kernfs_remove_self,
    kernfs_root,
    kernfs_write,
)
from uvfio.linux.kernel.wait import Completion
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current


@pytest.fixture
def machine() -> BareMachine:
    return BareMachine()


def answer(number: int, function: Callable[..., object], *args: object) -> None:
    with pytest.raises(Errno) as caught:
        function(*args)
    assert caught.value.number == number


def test_a_file_is_read_and_written_through_its_handlers(machine: BareMachine) -> None:
    written: list[bytes] = []

    def body() -> None:
        top = kernfs_create_dir(kernfs_root().root, "top")
        node = kernfs_create_file(top, Attribute("a", 0o644, lambda: "hello\n", written.append))
        assert node.path() == "/sys/top/a"
        assert kernfs_find("/sys/top/a") is node
        assert kernfs_read(node) == b"hello\n"
        assert kernfs_read(node, 1, 3) == b"ell"
        assert kernfs_write(node, b"x\n") == 2
        assert kernfs_write(node, b"") == 0

    machine.run(body)
    assert written == [b"x\n"]


def test_a_binary_file_ends_at_its_size(machine: BareMachine) -> None:
    content = bytes(range(16))

    def body() -> None:
        attr = BinAttribute("config", 0o644, 16, lambda off, n: content[off : off + n])
        node = kernfs_create_file(kernfs_root().root, attr)
        assert kernfs_read(node) == content
        assert kernfs_read(node, 14, 8) == content[14:]
        assert kernfs_read(node, 99, 8) == b""
        answer(EIO, kernfs_write, node, b"x")

    machine.run(body)


def test_even_root_cannot_open_what_has_no_handler(machine: BareMachine) -> None:
    def body() -> None:
        root = kernfs_root().root
        unread = kernfs_create_file(root, Attribute("wo", 0o200, store=lambda _data: None))
        unwritten = kernfs_create_file(root, Attribute("ro", 0o444, lambda: "x"))
        answer(EACCES, kernfs_fop_open, unread, True, False)
        answer(EACCES, kernfs_fop_open, unwritten, False, True)
        kernfs_fop_open(unread, False, True)
        answer(EIO, kernfs_read, unread)
        answer(EIO, kernfs_write, unwritten, b"1")

    machine.run(body)


def test_names_are_unique_and_need_a_living_directory(machine: BareMachine) -> None:
    def body() -> None:
        top = kernfs_create_dir(kernfs_root().root, "top")
        answer(EEXIST, kernfs_create_dir, kernfs_root().root, "top")
        kernfs_remove(top)
        assert kernfs_find("/sys/top") is None
        answer(ENOENT, kernfs_create_dir, top, "below")

    machine.run(body)


@pytest.mark.parametrize(
    ("link", "target", "shown"),
    [
        ("class/vfio", "devices/virtual/vfio/1", "../../devices/virtual/vfio/1"),
        ("devices/pci0000:00/dev/vfio-dev/vfio0", "devices/pci0000:00/dev", "../../../dev"),
        ("devices/pci0000:00/dev", "bus/pci", "../../../bus/pci"),
        ("devices/a", "devices/b", "../b"),
    ],
)
def test_links_read_as_in_linux(machine: BareMachine, link: str, target: str, shown: str) -> None:
    def directory(path: str) -> KernfsNode:
        node = kernfs_root().root
        for name in path.split("/"):
            node = node.children.get(name) or kernfs_create_dir(node, name)
        return node

    def body() -> str:
        return kernfs_link_target(kernfs_create_link(directory(link), "link", directory(target)))

    assert machine.run(body) == shown


def test_removal_waits_for_a_handler_and_then_nothing_gets_in(machine: BareMachine) -> None:
    order: list[str] = []

    def body() -> None:
        entered, leave = Completion("entered"), Completion("leave")

        def show() -> str:
            entered.complete()
            leave.wait_for_completion()
            order.append("handler ends")
            return ""

        top = kernfs_create_dir(kernfs_root().root, "top")
        node = kernfs_create_file(top, Attribute("slow", 0o444, show))
        runtime = current().runtime

        def remove() -> None:
            kernfs_remove(top)
            order.append("removed")

        runtime.spawn(lambda: kernfs_read(node), "reader")
        entered.wait_for_completion()
        remover = runtime.spawn(remove, "remover")
        runtime.point("wait", remover, ready=lambda: node.removed)
        answer(ENODEV, kernfs_read, node)
        leave.complete()
        runtime.point("wait", remover, ready=lambda: remover.done)

    machine.run(body)
    assert order == ["handler ends", "removed"]


def test_a_handler_may_remove_its_own_file_and_only_one_does(machine: BareMachine) -> None:
    won: list[bool] = []

    def body() -> None:
        both = Completion("both")

        def store(data: bytes) -> None:
            if data == b"first":
                both.wait_for_completion()
            else:
                both.complete()
            won.append(kernfs_remove_self(node))

        node = kernfs_create_file(kernfs_root().root, Attribute("remove", 0o200, store=store))
        runtime = current().runtime
        tasks = [runtime.spawn(lambda text=text: kernfs_write(node, text), "w") for text in (b"first", b"second")]
        for task in tasks:
            runtime.point("wait", task, ready=lambda task=task: task.done)
        assert kernfs_find("/sys/remove") is None
        assert not any(task.exception for task in tasks)

    machine.run(body)
    assert sorted(won) == [False, True]


def test_watchers_hear_of_every_node(machine: BareMachine) -> None:
    heard: list[tuple[str, str]] = []

    def body() -> None:
        kernfs_root().watchers.append(lambda event, node: heard.append((event, node.path())))
        top = kernfs_create_dir(kernfs_root().root, "top")
        kernfs_create_file(top, Attribute("a", 0o444, lambda: ""))
        kernfs_remove(top)

    machine.run(body)
    assert heard == [("add", "/sys/top"), ("add", "/sys/top/a"), ("remove", "/sys/top/a"), ("remove", "/sys/top")]


def test_whoever_removes_waits_even_if_somebody_else_does_already(machine: BareMachine) -> None:
    done: list[str] = []

    def body() -> None:
        entered, leave = Completion("entered"), Completion("leave")

        def show() -> str:
            entered.complete()
            leave.wait_for_completion()
            return ""

        top = kernfs_create_dir(kernfs_root().root, "top")
        node = kernfs_create_file(top, Attribute("slow", 0o444, show))
        runtime = current().runtime

        def remove(victim: KernfsNode, name: str) -> None:
            kernfs_remove(victim)
            done.append(name)

        runtime.spawn(lambda: kernfs_read(node), "reader")
        entered.wait_for_completion()
        tasks = [runtime.spawn(lambda v=v, n=n: remove(v, n), n) for v, n in ((node, "file"), (top, "dir"))]
        runtime.point("wait", tasks[1], ready=lambda: top.removed)
        assert done == []
        leave.complete()
        for task in tasks:
            runtime.point("wait", task, ready=lambda task=task: task.done)
        assert kernfs_find("/sys/top") is None

    machine.run(body)
    assert sorted(done) == ["dir", "file"]
