# SPDX-License-Identifier: GPL-2.0-only
"""Life cycles of the driver core over all interleavings: what may come out, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from errno import ENODEV
from typing import Any

import pytest
from bare_machine import BareMachine

from uvfio.devices.edu import Edu
from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Judge, Result, explore
from uvfio.linux.base import pci
from uvfio.linux.base.core import Device
from uvfio.linux.kernel.chrdev import Cdev, cdev_device_add, cdev_device_del, chrdev_open
from uvfio.linux.kernel.fs import File, FileOperations, fput_sync
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_find, kernfs_read, kernfs_write
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import is_freed, kstruct, kzalloc

NAME = "0000:00:01.0"
EDU = f"/sys/devices/pci0000:00/{NAME}/"
DRIVER = "/sys/bus/pci/drivers/native/"

Open = Callable[[], KernfsNode]


class Native(pci.PciDriver):
    name = "native"
    id_table = (pci.PciDeviceId(0x1234, 0x11E8),)

    def __init__(self) -> None:
        super().__init__()
        self.bound = 0
        self.most = 0

    def probe(self, dev: Any) -> None:
        self.bound += 1
        self.most = max(self.most, self.bound)

    def remove(self, dev: Any) -> None:
        self.bound -= 1


def attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except Errno as e:
        return str(e).partition(":")[0]
    return "ok"


def explored(bound: bool, *files: tuple[str, str | None]) -> Result:
    """One task for each file, opened beforehand: it writes the text, or reads for None."""

    def program(runtime: ControlledRuntime) -> Judge:
        machine = BareMachine()
        machine.runtime = runtime  # type: ignore[assignment]
        runtime.machine = machine
        driver = Native()
        nodes: list[KernfsNode] = []
        answers = [""] * len(files)

        def set_up() -> None:
            pci.pci_init()
            pci.pci_add_device(Edu(), NAME)
            pci.pci_bus_type().drivers_autoprobe = bound
            pci.pci_register_driver(driver)
            for path, _text in files:
                node = kernfs_find(path)
                assert node is not None
                nodes.append(node)

        runtime.run_function(set_up, "boot")

        def task(i: int) -> None:
            text = files[i][1]
            node = nodes[i]
            answers[i] = attempt(lambda: kernfs_read(node) if text is None else kernfs_write(node, text.encode()))

        for i in range(len(files)):
            runtime.spawn(lambda i=i: task(i), "ABC"[i])

        def judge() -> Hashable:
            assert driver.most <= 1
            found = pci.pci_host().found.get(NAME)
            assert driver.bound == (found is not None and found.driver is driver)
            assert (kernfs_find(EDU) is not None) == (found is not None)
            return (*answers, "bound" if driver.bound else "unbound" if found else "gone")

        return lambda: runtime.run_function(judge, "judge")

    result = explore(program, Dpor())
    assert result.finding is None, f"{result.finding}"
    assert result.complete
    return result


@pytest.mark.parametrize(
    ("bound", "a", "b", "outcomes"),
    [
        (
            True,
            (DRIVER + "unbind", NAME),
            (EDU + "remove", "1"),
            {("ok", "ok", "gone"), ("ENODEV", "ok", "gone")},
        ),
        (
            False,
            (DRIVER + "bind", NAME),
            (EDU + "remove", "1"),
            {("ok", "ok", "gone"), ("ENODEV", "ok", "gone")},
        ),
        (
            False,
            (DRIVER + "bind", NAME),
            (DRIVER + "bind", NAME),
            {("ok", "EBUSY", "bound"), ("EBUSY", "ok", "bound")},
        ),
        (
            True,
            (EDU + "remove", "1"),
            (EDU + "remove", "1"),
            {("ok", "ok", "gone"), ("ok", "ENODEV", "gone"), ("ENODEV", "ok", "gone")},
        ),
        (
            True,
            (EDU + "remove", "1"),
            (EDU + "vendor", None),
            {("ok", "ok", "gone"), ("ok", "ENODEV", "gone")},
        ),
    ],
    ids=["unbind-remove", "bind-remove", "bind-bind", "remove-remove", "read-remove"],
)
def test_two_at_once(
    bound: bool, a: tuple[str, str | None], b: tuple[str, str | None], outcomes: set[Hashable]
) -> None:
    assert set(explored(bound, a, b).outcomes) == outcomes


@kstruct("alive")
class Owner:
    def __init__(self) -> None:
        self.alive = True


class Ops(FileOperations):
    name = "toy"

    def open(self, file: File) -> None:
        if not file.cdev.obj.alive:
            raise Errno(ENODEV)


def test_an_open_that_races_with_removal_never_meets_a_freed_device() -> None:
    def program(runtime: ControlledRuntime) -> Judge:
        machine = BareMachine()
        machine.runtime = runtime  # type: ignore[assignment]
        runtime.machine = machine
        answers = [""]
        made: list[Any] = []

        def set_up() -> None:
            dev = kzalloc(Device, "1")
            dev.devt = (253, 0)
            owner = kzalloc(Owner)
            cdev = Cdev(Ops(), obj=owner)
            cdev_device_add(cdev, dev)
            made.extend((cdev, dev, owner))

        runtime.run_function(set_up, "boot")
        cdev, dev, owner = made

        def remove() -> None:
            owner.alive = False
            cdev_device_del(cdev, dev)
            dev.kref.put(dev.release, dev)

        def use() -> None:
            try:
                file = chrdev_open((253, 0), 0, "/dev/1")
            except Errno as e:
                answers[0] = str(e)
                return
            assert not is_freed(dev)
            assert file.cdev.obj is owner
            fput_sync(file)
            answers[0] = "ok"

        runtime.spawn(remove, "A")
        runtime.spawn(use, "B")

        def judge() -> Hashable:
            assert is_freed(dev)
            return answers[0]

        return judge

    result = explore(program, Dpor())
    assert result.finding is None, f"{result.finding}"
    assert set(result.outcomes) == {"ok", "ENXIO", "ENODEV"}
