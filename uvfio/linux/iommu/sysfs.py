# SPDX-License-Identifier: GPL-2.0-only
"""
What groups and IOMMUs show in sysfs.

Mirrors ``drivers/iommu/iommu-sysfs.c`` and the attributes of ``iommu.c``: the
directories ``/sys/kernel/iommu_groups/N`` and ``/sys/class/iommu``. Difference from
Linux: changing a group's type never has to flush anything.
"""

from __future__ import annotations

from errno import EACCES, EEXIST, EINVAL, EPERM
from typing import Any

from uvfio.linux.base.sysfs import sysfs_create_link, sysfs_dir, sysfs_remove_link, sysfs_text
from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.private import (
    IOMMU_DOMAIN_DMA,
    IOMMU_DOMAIN_DMA_FQ,
    IOMMU_DOMAIN_IDENTITY,
    IommuDevice,
    IommuDomain,
    IommuGroup,
    iommu_core,
)
from uvfio.linux.kernel.kernfs import Attribute, kernfs_create_dir, kernfs_create_file, kernfs_remove
from uvfio.linux.kernel.process import CAP_SYS_ADMIN, CAP_SYS_RAWIO, capable
from uvfio.linux.kernel.rwonce import READ_ONCE
from uvfio.runtime.errors import Errno, Splat


def iommu_group_create(group: IommuGroup) -> None:
    kobj = group.kobj = kernfs_create_dir(sysfs_dir("kernel/iommu_groups"), str(group.id))
    group.devices_kobj = kernfs_create_dir(kobj, "devices")
    kernfs_create_file(kobj, Attribute("reserved_regions", 0o444, lambda: reserved_regions_show(group)))
    store = Attribute("type", 0o644, lambda: type_show(group), lambda data: type_store(group, data))
    kernfs_create_file(kobj, store)


def iommu_group_name(group: IommuGroup, name: str) -> None:
    assert group.kobj is not None
    kernfs_create_file(group.kobj, Attribute("name", 0o444, lambda: f"{name}\n"))


def iommu_group_remove(group: IommuGroup) -> None:
    if group.kobj is not None:
        kernfs_remove(group.kobj)


def iommu_group_link(group: IommuGroup, dev: Any) -> str:
    """Links from the device to the group and back; the name of the latter."""
    assert group.kobj is not None
    assert group.devices_kobj is not None
    sysfs_create_link(dev.kobj, group.kobj, "iommu_group")
    name, n = dev.name, 0
    while True:
        try:
            sysfs_create_link(group.devices_kobj, dev.kobj, name)
            return str(name)
        except Errno as e:
            if e.number != EEXIST:
                raise
        name, n = f"{dev.name}.{n}", n + 1


def iommu_group_unlink(group: IommuGroup, dev: Any, name: str) -> None:
    assert group.devices_kobj is not None
    sysfs_remove_link(group.devices_kobj, name)
    if dev.kobj is not None:
        sysfs_remove_link(dev.kobj, "iommu_group")


def iommu_device_sysfs_add(iommu_dev: IommuDevice, attrs: list[Attribute], group: str = "") -> None:
    """/sys/class/iommu/NAME, with *attrs* in the subdirectory *group* if it has one."""
    kobj = iommu_dev.kobj = kernfs_create_dir(sysfs_dir("devices/virtual/iommu"), iommu_dev.name)
    iommu_dev.devices_kobj = kernfs_create_dir(kobj, "devices")
    directory = kernfs_create_dir(kobj, group) if group else kobj
    for attr in attrs:
        kernfs_create_file(directory, attr)
    kernfs_create_file(kobj, Attribute("uevent", 0o644, lambda: "", lambda _data: None))
    sysfs_create_link(kobj, sysfs_dir("class/iommu"), "subsystem")
    sysfs_create_link(sysfs_dir("class/iommu"), kobj, iommu_dev.name)


def iommu_device_link(iommu_dev: IommuDevice, dev: Any) -> None:
    if iommu_dev.kobj is None or iommu_dev.devices_kobj is None:
        return
    sysfs_create_link(iommu_dev.devices_kobj, dev.kobj, dev.name)
    sysfs_create_link(dev.kobj, iommu_dev.kobj, "iommu")


def iommu_device_unlink(iommu_dev: IommuDevice, dev: Any) -> None:
    if iommu_dev.devices_kobj is None:
        return
    if dev.kobj is not None:
        sysfs_remove_link(dev.kobj, "iommu")
    sysfs_remove_link(iommu_dev.devices_kobj, dev.name)


def reserved_regions_show(group: IommuGroup) -> str:
    regions = iommu.iommu_get_group_resv_regions(group)
    return "".join(f"{r.start:#018x} {r.last:#018x} {r.type}\n" for r in regions)


def type_show(group: IommuGroup) -> str:
    with group.mutex:
        return f"{group.default_domain.type if group.default_domain is not None else 'unknown'}\n"


def type_store(group: IommuGroup, data: bytes) -> None:
    """Change the default domain. Errno EACCES, EINVAL (unknown, or none), EPERM (in use)."""
    if not capable(CAP_SYS_ADMIN) or not capable(CAP_SYS_RAWIO):
        raise Errno(EACCES)
    if READ_ONCE(group, "default_domain") is None:  # Linux reads it without the mutex
        raise Errno(EINVAL)
    word = sysfs_text(data)
    if word not in (IOMMU_DOMAIN_IDENTITY, IOMMU_DOMAIN_DMA, IOMMU_DOMAIN_DMA_FQ, "auto"):
        raise Errno(EINVAL)
    with group.mutex:
        if word == IOMMU_DOMAIN_DMA_FQ and _default_domain(group).type == IOMMU_DOMAIN_DMA:
            _default_domain(group).type = word  # the one change that an owner does not hinder
            return
        if not group.devices or group.owner_cnt:
            raise Errno(EPERM)
        _replace_default_domain(group, _default_domain(group), iommu_core().def_domain_type if word == "auto" else word)


def _default_domain(group: IommuGroup) -> IommuDomain:
    """The default domain, as Linux follows the pointer: checked only before it had the mutex."""
    if group.default_domain is None:
        raise Splat("null-pointer", f"{group!r} has lost its default domain since type_store() looked")
    return group.default_domain


def _replace_default_domain(group: IommuGroup, old: IommuDomain, type: str) -> None:
    if type == old.type:
        return
    dev = group.devices[0].dev
    domain = dev.iommu.iommu_dev.ops.domain_alloc(dev, type)
    iommu.iommu_group_set_default_domain(group, domain)
    iommu.iommu_domain_free(old)
