# SPDX-License-Identifier: GPL-2.0-only
"""What parents, types and devices show in sysfs. Mirrors ``drivers/vfio/mdev/mdev_sysfs.c``."""

from __future__ import annotations

import re
from errno import EINVAL
from functools import partial
from uuid import UUID

from uvfio.linux.base.core import device_remove_file_self, get_device, put_device
from uvfio.linux.base.sysfs import kstrtoul, sysfs_create_files, sysfs_create_link, sysfs_remove_link
from uvfio.linux.kernel.kernfs import Attribute, BinAttribute, kernfs_create_dir, kernfs_remove
from uvfio.linux.mdev import core
from uvfio.linux.mdev.private import MdevDevice, MdevParent, MdevType
from uvfio.runtime.errors import Errno

UUID_STRING_LEN = 36
GUID = re.compile(rb"-".join(rb"[0-9A-Fa-f]{%d}" % n for n in (8, 4, 4, 4, 12)))


def create_store(mtype: MdevType, data: bytes) -> None:
    """A UUID, and perhaps one more byte, whatever it is."""
    if not UUID_STRING_LEN <= len(data) <= UUID_STRING_LEN + 1:
        raise Errno(EINVAL)
    text = data[:UUID_STRING_LEN]
    if not GUID.fullmatch(text):
        raise Errno(EINVAL)
    core.mdev_device_create(mtype, UUID(text.decode()))


def available_instances_show(mtype: MdevType) -> str:
    drv = mtype.parent.mdev_driver
    available = drv.get_available(mtype) if drv.counts_itself else mtype.parent.available_instances.read()
    return f"{available}\n"


def mdev_types_core_attrs(mtype: MdevType) -> list[Attribute]:
    drv = mtype.parent.mdev_driver
    attrs = [
        Attribute("create", 0o200, store=partial(create_store, mtype)),
        Attribute("name", 0o444, lambda: f"{mtype.pretty_name}\n"),
        Attribute("device_api", 0o444, lambda: f"{drv.device_api}\n"),
        Attribute("available_instances", 0o444, partial(available_instances_show, mtype)),
    ]
    if drv.describes:
        attrs.append(Attribute("description", 0o444, lambda: drv.show_description(mtype)))
    return attrs


def mdev_type_add(parent: MdevParent, mtype: MdevType) -> None:
    get_device(parent.dev)
    mtype.kobj = kernfs_create_dir(parent.mdev_types_kset, f"{parent.mdev_driver.name}-{mtype.sysfs_name}")
    mtype.devices_kobj = kernfs_create_dir(mtype.kobj, "devices")
    sysfs_create_files(mtype.kobj, mdev_types_core_attrs(mtype))


def mdev_type_release(mtype: MdevType) -> None:
    put_device(mtype.parent.dev)


def mdev_type_remove(mtype: MdevType) -> None:
    """Waits until nobody makes a device of *mtype*."""
    kernfs_remove(mtype.kobj)
    mtype.kref.put(mdev_type_release, mtype)


def parent_create_sysfs_files(parent: MdevParent) -> None:
    assert parent.dev.kobj is not None
    parent.mdev_types_kset = kernfs_create_dir(parent.dev.kobj, "mdev_supported_types")
    for mtype in parent.types:
        mdev_type_add(parent, mtype)


def parent_remove_sysfs_files(parent: MdevParent) -> None:
    for mtype in parent.types:
        mdev_type_remove(mtype)
    kernfs_remove(parent.mdev_types_kset)


def remove_store(mdev_device: MdevDevice, data: bytes) -> None:
    # From the removal of the file on, only what others need keeps the device.
    if kstrtoul(data) and device_remove_file_self(mdev_device, "remove"):
        core.mdev_device_remove(mdev_device)


def mdev_device_groups(mdev_device: MdevDevice) -> list[Attribute | BinAttribute]:
    return [Attribute("remove", 0o200, store=partial(remove_store, mdev_device))]


def mdev_create_sysfs_files(mdev_device: MdevDevice) -> None:
    mtype = mdev_device.type
    assert mdev_device.kobj is not None
    sysfs_create_link(mtype.devices_kobj, mdev_device.kobj, mdev_device.name)
    sysfs_create_link(mdev_device.kobj, mtype.kobj, "mdev_type")


def mdev_remove_sysfs_files(mdev_device: MdevDevice) -> None:
    assert mdev_device.kobj is not None
    sysfs_remove_link(mdev_device.kobj, "mdev_type")
    sysfs_remove_link(mdev_device.type.devices_kobj, mdev_device.name)
