# SPDX-License-Identifier: GPL-2.0-only
"""
Parents, and the making and removing of their devices. Mirrors ``drivers/vfio/mdev/mdev_core.c``.

A device comes and goes under its parent's ``unreg_sem`` for reading. It is only tried
for: who unregisters the parent holds it for writing while waiting for the very handlers
of sysfs that we are in. As Linux 7.3.4 is, so is this, with three bugs (see
``bugs/patches/M5*.patch``): an instance is lost when there is no memory; one who
removes a device before it is active leaves it without ``remove``; and one who comes
too late for a device touches it to find that out. Difference from Linux: no uevents.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EAGAIN, EEXIST, EINVAL, ENODEV, ENOMEM, EUSERS
from uuid import UUID

from uvfio.linux.base import dd
from uvfio.linux.base.core import Device, device_add, device_del, device_for_each_child, put_device
from uvfio.linux.base.sysfs import sysfs_create_link, sysfs_dir, sysfs_remove_link
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.kernel.refcount import Atomic, Kref
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.kernel.slab import should_failslab
from uvfio.linux.mdev import driver, sysfs
from uvfio.linux.mdev.private import MdevDevice, MdevDriver, MdevParent, MdevType, mdev
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc


def mdev_init() -> None:
    """Boot: the bus, and the class that is only a directory of links to parents."""
    driver.mdev_bus_register()
    mdev().bus_compat_class = sysfs_dir("class/mdev_bus")


def mdev_register_parent(parent: MdevParent, dev: Device, mdev_driver: MdevDriver, types: Sequence[MdevType]) -> None:
    """From here on user space can divide *dev*. Errno EINVAL when the driver has no API."""
    if not mdev_driver.device_api:
        raise Errno(EINVAL)
    parent.dev = dev
    parent.mdev_driver = mdev_driver
    parent.unreg_sem = RwSemaphore("mdev_parent.unreg_sem")
    parent.types = types
    parent.available_instances = Atomic("mdev_parent.available_instances", mdev_driver.max_instances)
    for mtype in types:
        mtype.parent = parent
        mtype.kref = Kref("mdev_type")
    sysfs.parent_create_sysfs_files(parent)
    assert dev.kobj is not None
    sysfs_create_link(mdev().bus_compat_class, dev.kobj, dev.name)


def mdev_unregister_parent(parent: MdevParent) -> None:
    """Remove all devices of *parent*, waiting for their users; no more can be made."""
    parent.unreg_sem.down_write()
    sysfs_remove_link(mdev().bus_compat_class, parent.dev.name)
    device_for_each_child(parent.dev, mdev_device_remove_cb)
    sysfs.parent_remove_sysfs_files(parent)
    parent.unreg_sem.up_write()


def mdev_device_remove_cb(dev: Device) -> int:
    if isinstance(dev, MdevDevice):
        mdev_device_remove_common(dev)
    return 0


def mdev_device_remove_common(mdev_device: MdevDevice) -> None:
    """The caller has ``unreg_sem``, for reading if only this device goes."""
    parent = mdev_device.type.parent
    sysfs.mdev_remove_sysfs_files(mdev_device)
    device_del(mdev_device)
    lockdep_assert_held(parent.unreg_sem)
    put_device(mdev_device)


def mdev_device_release(mdev_device: MdevDevice) -> None:
    mtype = mdev_device.type
    parent = mtype.parent
    with mdev().list_lock:
        mdev().list.remove(mdev_device)
        if not parent.mdev_driver.counts_itself:
            parent.available_instances.inc()
    mtype.kref.put(sysfs.mdev_type_release, mtype)
    kfree(mdev_device)


def mdev_device_create(mtype: MdevType, uuid: UUID) -> None:
    """Errno EEXIST, EUSERS (no instance left), ENODEV (the parent goes), or what the driver says."""
    parent = mtype.parent
    drv = parent.mdev_driver
    statics = mdev()
    with statics.list_lock:
        if any(other.uuid == uuid for other in statics.list):
            raise Errno(EEXIST)
        # Atomic only for those who read it without the lock.
        if not drv.counts_itself:
            if not parent.available_instances.read():
                raise Errno(EUSERS)
            parent.available_instances.dec()
        if should_failslab(MdevDevice):
            raise Errno(ENOMEM)
        mdev_device = kzalloc(MdevDevice, uuid, mtype)
        mdev_device.bus = statics.bus_type
        mdev_device.release = mdev_device_release
        mdev_device.groups = sysfs.mdev_device_groups(mdev_device)
        mtype.kref.get()
        statics.list.append(mdev_device)
    if not parent.unreg_sem.down_read_trylock():
        put_device(mdev_device)
        raise Errno(ENODEV)
    try:
        mdev_device_add(mdev_device, drv)
    except Errno:
        parent.unreg_sem.up_read()
        put_device(mdev_device)
        raise
    mdev_device.active = True
    parent.unreg_sem.up_read()


def mdev_device_add(mdev_device: MdevDevice, drv: MdevDriver) -> None:
    device_add(mdev_device)
    try:
        dd.device_driver_attach(drv, mdev_device)
        sysfs.mdev_create_sysfs_files(mdev_device)
    except Errno:
        device_del(mdev_device)
        raise


def mdev_device_remove(mdev_device: MdevDevice) -> None:
    """Errno EAGAIN when somebody else removes it, ENODEV when all devices of the parent go."""
    parent = mdev_device.type.parent
    with mdev().list_lock:
        if mdev_device not in mdev().list:
            raise Errno(ENODEV)
        if not mdev_device.active:
            raise Errno(EAGAIN)
        mdev_device.active = False
    if not parent.unreg_sem.down_read_trylock():
        raise Errno(ENODEV)
    mdev_device_remove_common(mdev_device)
    parent.unreg_sem.up_read()
