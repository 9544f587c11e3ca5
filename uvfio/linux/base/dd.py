# SPDX-License-Identifier: GPL-2.0-only
"""
Binding drivers to devices. Mirrors ``drivers/base/dd.c``.

Everything that changes ``dev.driver`` runs under ``device.mutex``, probe and remove
included: a driver that waits in remove holds it. Differences from Linux: no deferred
and no asynchronous probing.
"""

from __future__ import annotations

from errno import EBUSY, ENODEV, ENXIO

from uvfio.linux.base import bus
from uvfio.linux.base.private import (
    BUS_NOTIFY_BIND_DRIVER,
    BUS_NOTIFY_BOUND_DRIVER,
    BUS_NOTIFY_DRIVER_NOT_BOUND,
    BUS_NOTIFY_UNBIND_DRIVER,
    BUS_NOTIFY_UNBOUND_DRIVER,
    Device,
    Driver,
)
from uvfio.linux.base.sysfs import sysfs_create_files, sysfs_create_link, sysfs_remove_link
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.kernel.kernfs import Attribute, kernfs_create_dir, kernfs_create_file, kernfs_remove_by_name
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current


class DmaConfigureError(Errno):
    """The kernel may not do DMA with the device now: no other driver would fare better."""


def device_driver_attach(drv: Driver, dev: Device) -> None:
    """Bind *dev* to *drv*. Errno EBUSY bound already, ENODEV gone, or what probe says."""
    with dev.mutex:
        _driver_probe_device(drv, dev)


def device_driver_detach(dev: Device, drv: Driver) -> None:
    """Unbind *dev*, if it is still bound to *drv*; waits for the driver's remove."""
    with dev.mutex:
        if dev.driver is drv:
            _release_driver(dev)


def device_attach(dev: Device) -> bool:
    """Try every driver that matches. Errno only when DMA could not be configured."""
    with dev.mutex:
        if dev.dead:
            return False
        if dev.driver is not None:
            return True
        assert dev.bus is not None
        bus_type = dev.bus
        return any(bus_type.match(dev, drv) and _try(drv, dev) for drv in list(bus_type.drivers))


def device_initial_probe(dev: Device) -> None:
    try:
        device_attach(dev)
    except Errno:
        return  # as at boot: the device stays unbound


def driver_attach(drv: Driver) -> None:
    """Bind every device of the bus that *drv* matches and nobody drives."""
    assert drv.bus is not None
    with drv.bus.k_lock:
        devices = list(drv.bus.devices)
        for dev in devices:
            dev.kref.get()
    for dev in devices:
        if drv.bus.match(dev, drv):
            with dev.mutex:
                try:
                    _try(drv, dev)
                except Errno:
                    pass  # the next device may fare better
        dev.kref.put(dev.release, dev)


def driver_detach(drv: Driver) -> None:
    while drv.devices:
        device_driver_detach(drv.devices[-1], drv)


def device_release_driver(dev: Device) -> None:
    """Unbind *dev* from whatever drives it; returns when that has let go."""
    with dev.mutex:
        if dev.driver is not None:
            _release_driver(dev)


def waiting_for_supplier(dev: Device, present: bool) -> None:
    """The attribute that a device known to firmware has while nobody drives it."""
    if not dev.has_fwnode or dev.kobj is None:
        return
    if not present:
        kernfs_remove_by_name(dev.kobj, "waiting_for_supplier")
    elif "waiting_for_supplier" not in dev.kobj.children:
        kernfs_create_file(dev.kobj, Attribute("waiting_for_supplier", 0o444, lambda: "0\n"))


def _try(drv: Driver, dev: Device) -> bool:
    """Probe; a driver that refuses leaves the next one its chance."""
    try:
        _driver_probe_device(drv, dev)
    except DmaConfigureError:
        raise
    except Errno:
        return False
    return True


def _driver_probe_device(drv: Driver, dev: Device) -> None:
    lockdep_assert_held(dev.mutex)
    if dev.dead or dev.kobj is None:
        raise Errno(ENODEV, f"{dev.name} is being removed")
    if dev.driver is not None:
        raise Errno(EBUSY, f"{dev.name} is bound already")
    _really_probe(drv, dev)


def _really_probe(drv: Driver, dev: Device) -> None:
    assert dev.bus is not None
    dev.driver = drv
    try:
        _dma_configure(drv, dev)
    except Errno as e:
        bus.bus_notify(dev, BUS_NOTIFY_DRIVER_NOT_BOUND)
        dev.driver = None
        raise DmaConfigureError(e.number, e.why) from None
    _driver_sysfs_add(drv, dev)
    try:
        dev.bus.probe(dev)
    except Errno as e:
        _driver_sysfs_remove(drv, dev)
        bus.bus_notify(dev, BUS_NOTIFY_DRIVER_NOT_BOUND)
        _dma_cleanup(drv, dev)
        dev.driver = None
        dev.driver_data = None
        raise Errno(ENODEV if e.number == ENXIO else e.number, e.why) from None
    current().runtime.note("probed", dev, "r")
    _add_groups(drv, dev)
    waiting_for_supplier(dev, False)
    drv.devices.append(dev)
    bus.bus_notify(dev, BUS_NOTIFY_BOUND_DRIVER)


def _release_driver(dev: Device) -> None:
    lockdep_assert_held(dev.mutex)
    drv = dev.driver
    assert drv is not None
    assert dev.bus is not None
    # The link goes before remove() is called: while a driver waits for its users, the
    # device already looks unbound.
    _driver_sysfs_remove(drv, dev)
    bus.bus_notify(dev, BUS_NOTIFY_UNBIND_DRIVER)
    current().runtime.note("removed", dev, "r")
    _remove_groups(drv, dev)
    dev.bus.remove(dev)
    _dma_cleanup(drv, dev)
    dev.driver = None
    dev.driver_data = None
    drv.devices.remove(dev)
    bus.bus_notify(dev, BUS_NOTIFY_UNBOUND_DRIVER)
    waiting_for_supplier(dev, True)


def _dma_configure(drv: Driver, dev: Device) -> None:
    assert dev.bus is not None
    if not drv.driver_managed_dma and dev.bus.dma_configure is not None:
        dev.bus.dma_configure(dev)


def _dma_cleanup(drv: Driver, dev: Device) -> None:
    assert dev.bus is not None
    if not drv.driver_managed_dma and dev.bus.dma_cleanup is not None:
        dev.bus.dma_cleanup(dev)


def _add_groups(drv: Driver, dev: Device) -> None:
    for name, attrs in drv.dev_groups(dev).items():
        assert dev.kobj is not None
        sysfs_create_files(kernfs_create_dir(dev.kobj, name), attrs)


def _remove_groups(drv: Driver, dev: Device) -> None:
    for name in drv.dev_groups(dev):
        assert dev.kobj is not None
        kernfs_remove_by_name(dev.kobj, name)


def _driver_sysfs_add(drv: Driver, dev: Device) -> None:
    assert drv.kobj is not None
    assert dev.kobj is not None
    bus.bus_notify(dev, BUS_NOTIFY_BIND_DRIVER)
    sysfs_create_link(drv.kobj, dev.kobj, dev.name)
    sysfs_create_link(dev.kobj, drv.kobj, "driver")


def _driver_sysfs_remove(drv: Driver, dev: Device) -> None:
    assert drv.kobj is not None
    assert dev.kobj is not None
    sysfs_remove_link(drv.kobj, dev.name)
    sysfs_remove_link(dev.kobj, "driver")
