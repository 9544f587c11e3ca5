# SPDX-License-Identifier: GPL-2.0-only
"""
Character devices. Mirrors ``fs/char_dev.c`` and ``drivers/char/misc.c``.

An open may still be on its way when :func:`cdev_del` returns: it holds a reference on
the cdev, and through it on the device, but its ``open`` must look again whether the
device lives. Differences from Linux: ``vfio`` and ``vfio-dev`` always get the majors
they have on the reference machine; a region has all minors.
"""

from __future__ import annotations

from errno import EBUSY, ENXIO
from typing import Any

from uvfio.linux.base import core
from uvfio.linux.base.private import Class, Device
from uvfio.linux.kernel.fs import File, FileOperations
from uvfio.linux.kernel.refcount import Kref
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current, per_machine

MISC_MAJOR = 10
KNOWN_MAJORS = {"vfio": 253, "vfio-dev": 252}


class Cdev:
    """``struct cdev``. *obj* is the structure it is part of; *parent* is kept alive."""

    def __init__(self, f_op: FileOperations, obj: Any = None, parent: Device | None = None) -> None:
        self.f_op = f_op
        self.obj = obj
        self.parent = parent
        self.kref = Kref(f"cdev {f_op.name}")
        self.dev: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<cdev {self.f_op.name} {self.dev}>"

    def put(self) -> None:
        """``cdev_put()``."""
        self.kref.put(_cdev_release, self)


class Chrdevs:
    """Which character devices one machine has."""

    def __init__(self) -> None:
        self.majors: dict[int, str] = {1: "mem", MISC_MAJOR: "misc"}
        self.cdevs: dict[tuple[int, int], Cdev] = {}
        self.misc: dict[int, str] = {}
        self.misc_class: Class | None = None


chrdevs = per_machine(Chrdevs)


def alloc_chrdev_region(name: str) -> int:
    """A major number of one's own, shown in /proc/devices as *name*."""
    majors = chrdevs().majors
    taken = {*majors, *KNOWN_MAJORS.values()}
    major = KNOWN_MAJORS.get(name) or max(n for n in range(234, 255) if n not in taken)
    majors[major] = name
    return major


def cdev_add(cdev: Cdev, devt: tuple[int, int]) -> None:
    """From here on, opening *devt* reaches *cdev*. Errno EBUSY if something has it."""
    table = chrdevs()
    current().runtime.point("cdev_add", table)
    if devt in table.cdevs:
        current().runtime.note("cdev_duplicate", cdev)
        raise Errno(EBUSY, f"character device {devt[0]}:{devt[1]} is taken")
    if cdev.parent is not None:
        core.get_device(cdev.parent)
    cdev.dev = devt
    table.cdevs[devt] = cdev


def cdev_del(cdev: Cdev) -> None:
    """No further open reaches *cdev*; those under way and open files keep it alive."""
    table = chrdevs()
    current().runtime.point("cdev_del", table)
    if cdev.dev is not None and table.cdevs.get(cdev.dev) is cdev:
        del table.cdevs[cdev.dev]
    cdev.put()


def cdev_device_add(cdev: Cdev, dev: Device) -> None:
    """Add both; *dev* must not go before *cdev*. A device without ``devt`` has no node."""
    cdev.parent = dev
    if dev.devt is not None:
        cdev_add(cdev, dev.devt)
    try:
        core.device_add(dev)
    except Errno:
        if dev.devt is not None:
            cdev_del(cdev)
        raise


def cdev_device_del(cdev: Cdev, dev: Device) -> None:
    core.device_del(dev)
    if dev.devt is not None:
        cdev_del(cdev)


def chrdev_open(devt: tuple[int, int], flags: int, name: str) -> File:
    """Open the device node *name* of *devt*. Errno ENXIO without a device; see f_op.open."""
    table = chrdevs()
    current().runtime.point("chrdev_open", table, "r")
    cdev = table.cdevs.get(devt)
    if cdev is None or not cdev.kref.get_unless_zero():
        raise Errno(ENXIO)
    file = File(cdev.f_op, None, flags, name)
    file.f_rdev = devt
    file.cdev = cdev
    try:
        cdev.f_op.open(file)
    except Errno:
        cdev.put()
        raise
    current().runtime.note("opened", file, "r")
    return file


def misc_register(name: str, minor: int, f_op: FileOperations, mode: int, nodename: str | None = None) -> Device:
    """A misc device 10:*minor* with its node, /dev/NAME unless *nodename* says otherwise."""
    table = chrdevs()
    if table.misc_class is None:
        table.misc_class = core.class_create("misc", lambda dev: dev.driver_data)
    path = nodename or {"vfio": "vfio/vfio"}.get(name, name)
    dev = core.device_create(table.misc_class, None, (MISC_MAJOR, minor), (path, mode), name)
    cdev_add(Cdev(f_op, obj=dev, parent=dev), (MISC_MAJOR, minor))
    table.misc[minor] = name
    return dev


def _cdev_release(cdev: Cdev) -> None:
    core.put_device(cdev.parent)
