# SPDX-License-Identifier: GPL-2.0-only
"""
Devices. Mirrors ``drivers/base/core.c`` and ``class.c``.

The order of :func:`device_del` is what races are about: the node in /dev goes first,
then the attributes, then the driver is unbound (which may wait), then the IOMMU core
hears ``BUS_NOTIFY_REMOVED_DEVICE``, and the memory stays until the last reference.
Differences from Linux: see ``private.py``; uevents are not sent.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL
from typing import Any, TypeVar

from uvfio.linux.base import bus, dd
from uvfio.linux.base.devtmpfs import devtmpfs_create_node, devtmpfs_delete_node
from uvfio.linux.base.private import (
    BUS_NOTIFY_ADD_DEVICE,
    BUS_NOTIFY_DEL_DEVICE,
    BUS_NOTIFY_REMOVED_DEVICE,
    AnyAttribute,
    Class,
)
from uvfio.linux.base.private import BusType as BusType
from uvfio.linux.base.private import Device as Device
from uvfio.linux.base.private import Driver as Driver
from uvfio.linux.base.sysfs import (
    sysfs_create_files,
    sysfs_create_link,
    sysfs_dir,
    sysfs_remove_files,
    sysfs_remove_link,
    uevent_store,
)
from uvfio.linux.kernel.bug import WARN_ON
from uvfio.linux.kernel.kernfs import (
    Attribute,
    KernfsNode,
    kernfs_create_dir,
    kernfs_create_file,
    kernfs_remove,
    kernfs_remove_by_name,
    kernfs_remove_self,
)
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc

D = TypeVar("D", bound=Device)


def get_device(dev: D) -> D:
    dev.kref.get()
    return dev


def put_device(dev: Device | None) -> None:
    """Drop a reference; the last one runs ``dev.release(dev)``."""
    if dev is not None:
        dev.kref.put(dev.release, dev)


def device_unregister(dev: Device) -> None:
    device_del(dev)
    put_device(dev)


def device_add(dev: Device) -> None:
    """Show the device to the world, its driver included. Errno EEXIST, EINVAL."""
    if not dev.name:
        raise Errno(EINVAL, "a device must have a name")
    if dev.parent is not None:
        get_device(dev.parent)
    try:
        kobj = dev.kobj = kernfs_create_dir(_device_parent_dir(dev), dev.name)
    except Errno:
        put_device(dev.parent)
        raise
    kernfs_create_file(kobj, Attribute("uevent", 0o644, lambda: uevent_show(dev), uevent_store))
    _add_class_links(dev, kobj)
    sysfs_create_files(kobj, _attributes(dev))
    dd.waiting_for_supplier(dev, True)
    bus.bus_add_device(dev)
    if dev.devt is not None:
        major, minor = dev.devt
        kernfs_create_file(kobj, Attribute("dev", 0o444, lambda: f"{major}:{minor}\n"))
        sysfs_create_link(sysfs_dir("dev/char"), kobj, f"{major}:{minor}")
        path, mode = devnode(dev)
        devtmpfs_create_node(f"/dev/{path}", dev.devt, mode or 0o600)
    bus.bus_notify(dev, BUS_NOTIFY_ADD_DEVICE)
    bus.bus_probe_device(dev)
    if dev.parent is not None and dev.class_ is None:
        with dev.parent.klist_lock:
            dev.parent.klist_children.append(dev)


def device_del(dev: Device) -> None:
    """Take the device away. Returns when its driver has let go; the memory may stay."""
    kobj = dev.kobj
    assert kobj is not None
    with dev.mutex:
        dev.dead = True
    if dev.parent is not None and dev.class_ is None:
        with dev.parent.klist_lock:
            if dev in dev.parent.klist_children:  # not while it is being added
                dev.parent.klist_children.remove(dev)
    bus.bus_notify(dev, BUS_NOTIFY_DEL_DEVICE)
    if dev.devt is not None:
        devtmpfs_delete_node(f"/dev/{devnode(dev)[0]}")
        sysfs_remove_link(sysfs_dir("dev/char"), f"{dev.devt[0]}:{dev.devt[1]}")
        kernfs_remove_by_name(kobj, "dev")
    if dev.class_ is not None and dev.class_.kobj is not None:
        sysfs_remove_link(dev.class_.kobj, dev.name)
        sysfs_remove_link(kobj, "subsystem")
        sysfs_remove_link(kobj, "device")
    dd.waiting_for_supplier(dev, False)
    kernfs_remove_by_name(kobj, "uevent")
    sysfs_remove_files(kobj, _attributes(dev))
    bus.bus_remove_device(dev)
    bus.bus_notify(dev, BUS_NOTIFY_REMOVED_DEVICE)
    glue = kobj.parent
    kernfs_remove(kobj)
    dev.kobj = None
    if dev.class_ is not None and dev.parent is not None and glue is not None and not glue.children:
        kernfs_remove(glue)
    put_device(dev.parent)


def device_for_each_child(parent: Device, fn: Callable[[Device], int]) -> int:
    """
    Call *fn* for each child, in the order in which they came, until it does not answer
    0; its last answer. Each is referenced meanwhile, and may remove itself.
    """
    done: list[Device] = []
    while True:
        with parent.klist_lock:
            child = next((each for each in parent.klist_children if each not in done), None)
            if child is None:
                return 0
            get_device(child)
        done.append(child)
        error = fn(child)
        put_device(child)
        if error:
            return error


def device_create_file(dev: Device, attr: AnyAttribute) -> None:
    if not WARN_ON(dev.kobj is None, f"{attr.name} is created for a device that is not there"):
        assert dev.kobj is not None
        kernfs_create_file(dev.kobj, attr)


def device_remove_file(dev: Device, name: str) -> None:
    if dev.kobj is not None:
        kernfs_remove_by_name(dev.kobj, name)


def device_remove_file_self(dev: Device, name: str) -> bool:
    """From a handler of the attribute *name*: remove it. True for exactly one caller."""
    node = dev.kobj.children.get(name) if dev.kobj is not None else None
    return node is not None and kernfs_remove_self(node)


def class_create(name: str, devnode: Callable[[Any], tuple[str, int]] | None = None) -> Class:
    class_ = Class(name, devnode)
    class_.kobj = sysfs_dir(f"class/{name}")
    return class_


def device_create(
    class_: Class, parent: Device | None, devt: tuple[int, int] | None, drvdata: Any, name: str
) -> Device:
    """Make and register a device of *class_*. Errno as :func:`device_add`."""
    dev = kzalloc(Device, name, parent)
    dev.class_ = class_
    dev.devt = devt
    dev.driver_data = drvdata
    try:
        device_add(dev)
    except Errno:
        put_device(dev)
        raise
    return dev


def devnode(dev: Device) -> tuple[str, int]:
    """Path below /dev and mode (0: the default) of the node of *dev*."""
    if dev.class_ is not None and dev.class_.devnode is not None:
        return dev.class_.devnode(dev)
    return dev.name.replace("!", "/"), 0


def uevent_show(dev: Device) -> str:
    lines: dict[str, str] = {}
    if dev.devt is not None:
        path, mode = devnode(dev)
        lines.update(MAJOR=str(dev.devt[0]), MINOR=str(dev.devt[1]), DEVNAME=path)
        if mode:
            lines["DEVMODE"] = f"0{mode:o}"
    driver = dev.driver
    if driver is not None:
        lines["DRIVER"] = driver.name
    if dev.bus is not None:
        lines.update(dev.bus.uevent(dev))
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _attributes(dev: Device) -> list[AnyAttribute]:
    class_groups = dev.class_.dev_groups(dev) if dev.class_ is not None else ()
    return [*class_groups, *dev.groups]


def _add_class_links(dev: Device, kobj: KernfsNode) -> None:
    class_ = dev.class_
    if class_ is None or class_.kobj is None:
        return
    sysfs_create_link(kobj, class_.kobj, "subsystem")
    if dev.parent is not None and dev.parent.kobj is not None:
        sysfs_create_link(kobj, dev.parent.kobj, "device")
    sysfs_create_link(class_.kobj, kobj, dev.name)


def _device_parent_dir(dev: Device) -> KernfsNode:
    """Devices of a class get a directory of the class's name between them and the parent."""
    parent = dev.parent.kobj if dev.parent is not None else None
    if dev.class_ is None:
        return parent or sysfs_dir("devices")
    if parent is None:
        return sysfs_dir(f"devices/virtual/{dev.class_.name}")
    return parent.children.get(dev.class_.name) or kernfs_create_dir(parent, dev.class_.name)
