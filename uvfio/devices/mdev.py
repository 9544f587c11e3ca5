# SPDX-License-Identifier: GPL-2.0-only
"""
The kit for mediated devices: a parent to be divided, and access to a region in pieces.

Beside the PCI models of ``kit.py`` a machine can have these; ``-d mtty`` registers the
parent, and user space makes devices of it through ``/sys/class/mdev_bus/mtty``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EBUSY, EFAULT

from uvfio.linux.base.core import Device, class_create, device_create, device_unregister
from uvfio.linux.base.private import Class
from uvfio.linux.base.sysfs import sysfs_dir
from uvfio.linux.kernel.kernfs import kernfs_remove
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.mdev import core as mdev_core
from uvfio.linux.mdev import driver as mdev_driver
from uvfio.linux.mdev.private import MdevDriver, MdevParent, MdevType
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.runtime.task import per_machine


class MdevParents:
    """The parents that one machine has, by name."""

    def __init__(self) -> None:
        self.found: dict[str, MdevModel] = {}


mdev_parents = per_machine(MdevParents)


class MdevModel:
    """A module with a parent ``/sys/devices/virtual/NAME/NAME`` and a driver for its devices."""

    name = ""
    options: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.driver = self.make_driver()
        self.dev: Device
        self.dev_class: Class
        self.parent: MdevParent

    def make_driver(self) -> MdevDriver:
        raise NotImplementedError

    def make_types(self) -> list[MdevType]:
        raise NotImplementedError

    def init(self) -> None:
        """``module_init``. Errno EBUSY when the module is there already."""
        parents = mdev_parents().found
        if self.name in parents:
            raise Errno(EBUSY)
        parents[self.name] = self
        mdev_driver.mdev_register_driver(self.driver)
        self.dev_class = class_create(self.name)
        self.parent = kzalloc(MdevParent)
        self.dev = device_create(self.dev_class, None, None, self, self.name)
        self.dev.release = self._release
        mdev_core.mdev_register_parent(self.parent, self.dev, self.driver, self.make_types())

    def exit(self) -> None:
        """``module_exit``: waits for the users of its devices."""
        mdev_core.mdev_unregister_parent(self.parent)
        self.exit_module()

    def exit_module(self) -> None:
        """What there is to do once the parent is unregistered."""
        device_unregister(self.dev)
        mdev_driver.mdev_unregister_driver(self.driver)
        kernfs_remove(sysfs_dir(f"class/{self.name}"))
        del mdev_parents().found[self.name]

    def _release(self, dev: Device) -> None:
        # Not before: a device that somebody still has leads to the parent.
        kfree(self.parent)
        kfree(dev)


def pieces(pos: int, count: int) -> Iterator[tuple[int, int]]:
    """*count* bytes at *pos* as (position, size): naturally aligned, of at most four bytes."""
    end = pos + count
    while pos < end:
        size = next(size for size in (4, 2, 1) if pos % size == 0 and pos + size <= end)
        yield pos, size
        pos += size


def read_pieces(buf: int, count: int, pos: int, access: Callable[[int, int], bytes | None]) -> int:
    """Copy to the user what *access(position, size)* answers for each piece. Errno EFAULT for None."""
    for at, size in pieces(pos, count):
        data = access(at, size)
        if data is None:
            raise Errno(EFAULT)
        copy_to_user(buf + at - pos, data)
    return count


def write_pieces(buf: int, count: int, pos: int, access: Callable[[int, bytes], bool]) -> int:
    """Hand each piece to *access(position, data)*. Errno EFAULT where that is False."""
    for at, size in pieces(pos, count):
        if not access(at, copy_from_user(buf + at - pos, size)):
            raise Errno(EFAULT)
    return count
