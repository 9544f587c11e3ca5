# SPDX-License-Identifier: GPL-2.0-only
"""
The structs and statics of mediated devices.

Mirrors ``include/linux/mdev.h`` and ``drivers/vfio/mdev/mdev_private.h``. Lock order:
``mdev_parent.unreg_sem``, ``device.mutex``, and whatever the parent's driver takes;
``mdev_list_lock`` is a leaf. Differences from Linux: a type is a kref and a directory
instead of a kobject; a parent is allocated by its driver and freed by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from uvfio.linux.base.core import Device, Driver
from uvfio.linux.base.private import BusType
from uvfio.linux.kernel.kernfs import KernfsNode
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.refcount import Atomic, Kref
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import per_machine


class Mdev:
    """The statics of ``mdev_core.c`` and ``mdev_driver.c``."""

    def __init__(self) -> None:
        self.list_lock = Mutex("mdev_list_lock")
        self.list: list[MdevDevice] = []  # list_lock
        self.bus_type: BusType
        self.bus_compat_class: KernfsNode


mdev = per_machine(Mdev)


class MdevType:
    """``struct mdev_type``: a kind of device that a parent can be asked for."""

    def __init__(self, sysfs_name: str, pretty_name: str) -> None:
        self.sysfs_name = sysfs_name
        self.pretty_name = pretty_name
        self.parent: MdevParent
        self.kref: Kref
        self.kobj: KernfsNode
        self.devices_kobj: KernfsNode


@kstruct()
class MdevParent:
    """``struct mdev_parent``: part of what a driver knows of a device that it divides."""

    def __init__(self) -> None:
        self.dev: Device
        self.mdev_driver: MdevDriver
        self.unreg_sem: RwSemaphore  # read: a device comes or goes; write: all go
        self.mdev_types_kset: KernfsNode
        self.types: Sequence[MdevType] = ()
        self.available_instances: Atomic  # of any type


@kstruct("active")
class MdevDevice(Device):
    """``struct mdev_device``."""

    active: bool

    def __init__(self, uuid: UUID, mtype: MdevType) -> None:
        super().__init__(str(uuid), mtype.parent.dev)
        self.uuid = uuid
        self.type = mtype
        self.active = False  # mdev_list_lock; made, and nobody removes it yet


class MdevDriver(Driver):
    """``struct mdev_driver``: drives the devices that its parents are divided into."""

    device_api = ""
    max_instances = 0
    counts_itself = False  # it has a get_available; the core counts otherwise
    describes = False  # it has a show_description

    def get_available(self, mtype: MdevType) -> int:
        """How many devices of *mtype* can be made."""
        raise NotImplementedError

    def show_description(self, mtype: MdevType) -> str:
        raise NotImplementedError
