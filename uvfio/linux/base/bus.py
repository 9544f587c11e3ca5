# SPDX-License-Identifier: GPL-2.0-only
"""
Buses and drivers. Mirrors ``drivers/base/bus.c`` and ``driver.c``.

Difference from Linux: drivers are listed without a lock; they come at boot and stay.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EINVAL, ENODEV
from typing import Any

from uvfio.linux.base import dd
from uvfio.linux.base.private import BusType, Device, Driver
from uvfio.linux.base.sysfs import (
    sysfs_create_files,
    sysfs_create_link,
    sysfs_dir,
    sysfs_remove_files,
    sysfs_remove_link,
    sysfs_text,
    uevent_store,
)
from uvfio.linux.kernel.kernfs import Attribute, kernfs_create_dir, kernfs_remove
from uvfio.runtime.errors import Errno


def bus_register(bus: BusType) -> None:
    """Make /sys/bus/NAME and what belongs in it."""
    kobj = bus.kobj = kernfs_create_dir(sysfs_dir("bus"), bus.name)
    bus.devices_kset = kernfs_create_dir(kobj, "devices")
    bus.drivers_kset = kernfs_create_dir(kobj, "drivers")

    def set_autoprobe(data: bytes) -> None:
        bus.drivers_autoprobe = data[:1] != b"0"

    autoprobe = Attribute("drivers_autoprobe", 0o644, lambda: f"{int(bus.drivers_autoprobe)}\n", set_autoprobe)
    probe = Attribute("drivers_probe", 0o200, store=lambda data: drivers_probe_store(bus, data))
    uevent = Attribute("uevent", 0o200, store=uevent_store)
    sysfs_create_files(kobj, (probe, autoprobe, uevent, *bus.bus_groups()))


def bus_register_notifier(bus: BusType, notifier: Callable[[int, Any], None]) -> None:
    """*notifier(event, dev)* hears every ``BUS_NOTIFY_...`` of *bus*."""
    bus.notifiers.append(notifier)


def bus_unregister_notifier(bus: BusType, notifier: Callable[[int, Any], None]) -> None:
    bus.notifiers.remove(notifier)


def bus_notify(dev: Device, event: int) -> None:
    if dev.bus is not None:
        for notifier in list(dev.bus.notifiers):
            notifier(event, dev)


def bus_find_device_by_name(bus: BusType, name: str) -> Device | None:
    """The device called *name*, referenced; None if there is none."""
    with bus.k_lock:  # a device on the list is alive; without the lock it may go before the get
        for dev in bus.devices:
            if dev.name == name:
                dev.kref.get()
                return dev
    return None


def bus_add_device(dev: Device) -> None:
    bus = dev.bus
    if bus is None:
        return
    assert dev.kobj is not None
    assert bus.kobj is not None
    assert bus.devices_kset is not None
    sysfs_create_files(dev.kobj, bus.dev_groups(dev))
    sysfs_create_link(bus.devices_kset, dev.kobj, dev.name)
    sysfs_create_link(dev.kobj, bus.kobj, "subsystem")
    with bus.k_lock:
        bus.devices.append(dev)


def bus_probe_device(dev: Device) -> None:
    """A new device: bind it if some driver wants it."""
    if dev.bus is not None and dev.bus.drivers_autoprobe:
        dd.device_initial_probe(dev)


def bus_remove_device(dev: Device) -> None:
    bus = dev.bus
    if bus is None:
        return
    assert dev.kobj is not None
    assert bus.devices_kset is not None
    sysfs_remove_link(dev.kobj, "subsystem")
    sysfs_remove_link(bus.devices_kset, dev.name)
    sysfs_remove_files(dev.kobj, bus.dev_groups(dev))
    with bus.k_lock:
        bus.devices.remove(dev)
    dd.device_release_driver(dev)


def driver_register(bus: BusType, drv: Driver) -> None:
    """Make *drv* known; devices that it matches and nobody drives are bound. Errno EBUSY."""
    if any(other.name == drv.name for other in bus.drivers):
        raise Errno(EBUSY, f"driver {drv.name} must not be registered twice")
    assert bus.drivers_kset is not None
    drv.bus = bus
    drv.kobj = kernfs_create_dir(bus.drivers_kset, drv.name)
    bus.drivers.append(drv)
    if bus.drivers_autoprobe:
        dd.driver_attach(drv)
    if drv.module is not None:
        module = sysfs_dir(f"module/{drv.module}")
        sysfs_create_link(drv.kobj, module, "module")
        sysfs_create_link(sysfs_dir(f"module/{drv.module}/drivers"), drv.kobj, f"{bus.name}:{drv.name}")
    files = (
        Attribute("uevent", 0o200, store=uevent_store),
        *bus.drv_groups(drv),
        Attribute("unbind", 0o200, store=lambda data: unbind_store(drv, data)),
        Attribute("bind", 0o200, store=lambda data: bind_store(drv, data)),
    )
    sysfs_create_files(drv.kobj, files)


def driver_unregister(drv: Driver) -> None:
    """Unbind all its devices and forget it."""
    bus = drv.bus
    assert bus is not None
    assert drv.kobj is not None
    bus.drivers.remove(drv)
    dd.driver_detach(drv)
    if drv.module is not None:
        sysfs_remove_link(sysfs_dir(f"module/{drv.module}/drivers"), f"{bus.name}:{drv.name}")
    kernfs_remove(drv.kobj)


def bind_store(drv: Driver, data: bytes) -> None:
    assert drv.bus is not None
    dev = bus_find_device_by_name(drv.bus, sysfs_text(data))
    if dev is None:
        raise Errno(ENODEV)
    try:
        if not drv.bus.match(dev, drv):
            raise Errno(ENODEV, f"{drv.name} does not match {dev.name}")
        dd.device_driver_attach(drv, dev)
    finally:
        dev.kref.put(dev.release, dev)


def unbind_store(drv: Driver, data: bytes) -> None:
    assert drv.bus is not None
    dev = bus_find_device_by_name(drv.bus, sysfs_text(data))
    if dev is None:
        raise Errno(ENODEV)
    try:
        if dev.driver is not drv:
            raise Errno(ENODEV, f"{dev.name} is not bound to {drv.name}")
        dd.device_driver_detach(dev, drv)
    finally:
        dev.kref.put(dev.release, dev)


def drivers_probe_store(bus: BusType, data: bytes) -> None:
    dev = bus_find_device_by_name(bus, sysfs_text(data))
    if dev is None:
        raise Errno(ENODEV)
    try:
        if dev.driver is None:
            dd.device_attach(dev)
    except Errno:
        raise Errno(EINVAL, f"{dev.name} could not be bound") from None
    finally:
        dev.kref.put(dev.release, dev)
