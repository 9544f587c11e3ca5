# SPDX-License-Identifier: GPL-2.0-only
"""
The structures of the driver core.

Mirrors ``include/linux/device.h``, ``device/bus.h``, ``device/class.h`` and
``device/driver.h``. All differences from Linux:

* ``kobj`` is the directory in sysfs itself (a KernfsNode, None before
  ``device_add``); the reference count is the device's own;
* attribute groups are functions from the device to a list of attributes;
* no power management, device links, deferred probing or asynchronous probing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uvfio.linux.kernel.kernfs import Attribute, BinAttribute, KernfsNode
from uvfio.linux.kernel.mutex import Mutex, Spinlock
from uvfio.linux.kernel.refcount import Kref
from uvfio.runtime.struct import kfree, kstruct

AnyAttribute = Attribute | BinAttribute

BUS_NOTIFY_ADD_DEVICE = 0
BUS_NOTIFY_DEL_DEVICE = 1
BUS_NOTIFY_REMOVED_DEVICE = 2
BUS_NOTIFY_BIND_DRIVER = 3
BUS_NOTIFY_BOUND_DRIVER = 4
BUS_NOTIFY_UNBIND_DRIVER = 5
BUS_NOTIFY_UNBOUND_DRIVER = 6
BUS_NOTIFY_DRIVER_NOT_BOUND = 7


@kstruct("driver", "iommu_group", "dead")
class Device:
    """``struct device``. A subclass that is allocated must be a ``kstruct`` itself."""

    driver: Driver | None
    iommu_group: Any
    dead: bool

    def __init__(self, name: str, parent: Device | None = None) -> None:
        self.name = name
        self.parent = parent
        self.bus: BusType | None = None
        self.class_: Class | None = None
        self.devt: tuple[int, int] | None = None
        self.groups: list[AnyAttribute] = []  # besides those of the bus and the class
        self.release: Callable[[Any], None] = kfree
        self.kobj: KernfsNode | None = None
        self.kref = Kref(f"device {name}")
        self.mutex = Mutex("device.mutex")
        self.mutex.novalidate = True  # parents and children nest freely
        self.driver = None  # mutex
        self.driver_data: Any = None
        self.klist_lock = Spinlock("klist_children.k_lock")
        self.klist_children: list[Device] = []  # klist_lock; without those of classes
        self.driver_override: str | None = None
        self.dead = False  # mutex
        self.has_fwnode = False  # known to firmware, so it may wait for a supplier
        self.iommu_group = None
        self.iommu: Any = None

    def __repr__(self) -> str:
        return f"<device {self.__dict__.get('name')}>"


class Class:
    """``struct class``. *devnode* says path below /dev and mode of a device's node."""

    def __init__(self, name: str, devnode: Callable[[Any], tuple[str, int]] | None = None) -> None:
        self.name = name
        self.devnode = devnode
        self.dev_groups: Callable[[Any], Sequence[AnyAttribute]] = lambda _dev: ()
        self.kobj: KernfsNode | None = None


class BusType:
    """``struct bus_type``. Subclasses say who matches whom, and how to probe."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kobj: KernfsNode | None = None
        self.devices_kset: KernfsNode | None = None
        self.drivers_kset: KernfsNode | None = None
        self.k_lock = Spinlock("klist_devices.k_lock")
        self.devices: list[Device] = []  # k_lock
        self.drivers: list[Driver] = []
        self.drivers_autoprobe = True
        self.notifiers: list[Callable[[int, Any], None]] = []
        # Set by the IOMMU core; called only for drivers that do not manage DMA themselves.
        self.dma_configure: Callable[[Any], None] | None = None
        self.dma_cleanup: Callable[[Any], None] | None = None

    def __repr__(self) -> str:
        return f"<bus {self.name}>"

    def match(self, dev: Any, drv: Any) -> bool:
        """Could *drv* drive *dev*?"""
        return True

    def probe(self, dev: Any) -> None:
        """Let ``dev.driver`` take the device. Errno when it does not want it."""
        assert dev.driver is not None
        dev.driver.probe(dev)

    def remove(self, dev: Any) -> None:
        assert dev.driver is not None
        dev.driver.remove(dev)

    def uevent(self, dev: Any) -> dict[str, str]:
        return {}

    def bus_groups(self) -> Sequence[AnyAttribute]:
        return ()

    def dev_groups(self, dev: Any) -> Sequence[AnyAttribute]:
        return ()

    def drv_groups(self, drv: Any) -> Sequence[AnyAttribute]:
        return ()


class Driver:
    """``struct device_driver``."""

    name = "driver"
    module: str | None = None
    driver_managed_dma = False

    def __init__(self) -> None:
        self.bus: BusType | None = None
        self.kobj: KernfsNode | None = None
        self.devices: list[Device] = []

    def __repr__(self) -> str:
        return f"<driver {self.name}>"

    def dev_groups(self, dev: Any) -> Mapping[str, Sequence[AnyAttribute]]:
        """What *dev* shows while it is bound, by the name of the directory."""
        return {}

    def probe(self, dev: Any) -> None:
        """Take *dev*. Errno when it cannot be driven."""

    def remove(self, dev: Any) -> None:
        """Let go of *dev*; returns when nobody uses it through this driver."""
