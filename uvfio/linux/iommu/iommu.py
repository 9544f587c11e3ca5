# SPDX-License-Identifier: GPL-2.0-only
"""
IOMMU groups, their domains, and who owns their DMA.

Mirrors ``drivers/iommu/iommu.c``; what a group shows in sysfs is in ``sysfs.py``,
PASIDs are in ``pasid.py``.
All differences from Linux:

* an IOMMU driver serves every device that its ``probe_device`` takes: there is no
  fwspec and no firmware description;
* the memory of a default domain is nobody's: no kernel driver here does DMA, so a
  device on it reaches nothing;
* see also the head of ``private.py``.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV, ENOENT, EPERM
from typing import Any

from uvfio.linux.base.bus import bus_register_notifier
from uvfio.linux.base.pci import pci_bus_type
from uvfio.linux.base.pci_ats import pci_max_pasids
from uvfio.linux.base.pci_dev import PciDev
from uvfio.linux.base.private import BUS_NOTIFY_ADD_DEVICE, BUS_NOTIFY_REMOVED_DEVICE, BusType
from uvfio.linux.base.sysfs import sysfs_dir
from uvfio.linux.iommu import sysfs
from uvfio.linux.iommu.private import (
    IOMMU_DOMAIN_BLOCKED,
    IOMMU_NO_PASID,
    GroupDevice,
    IommuAttachHandle,
    IommuDevice,
    IommuDomain,
    IommuGroup,
    IommuOps,
    IommuResvRegion,
    iommu_core,
)
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.xarray import XA_ZERO_ENTRY
from uvfio.runtime.errors import Errno, Splat
from uvfio.runtime.struct import kfree, kzalloc


def iommu_subsys_init(bus: BusType) -> None:
    """Serve the devices of *bus* from now on, and those that are there already."""
    sysfs_dir("kernel/iommu_groups")
    bus_register_notifier(bus, iommu_bus_notifier)
    bus.dma_configure = iommu_device_use_default_domain
    bus.dma_cleanup = iommu_device_unuse_default_domain
    for dev in list(bus.devices):
        iommu_probe_device(dev)


def iommu_device_register(iommu: IommuDevice) -> None:
    """*iommu* is in front of devices on the PCI bus."""
    iommu.bus = pci_bus_type()
    iommu_core().iommu_device_list.append(iommu)


def iommu_device_register_bus(iommu: IommuDevice, bus: BusType) -> None:
    """*iommu* is in front of all devices of *bus*, which has no other."""
    iommu.bus = bus
    iommu_core().iommu_device_list.append(iommu)
    bus_register_notifier(bus, iommu_bus_notifier)


def iommu_bus_notifier(action: int, dev: Any) -> None:
    if action == BUS_NOTIFY_ADD_DEVICE:
        iommu_probe_device(dev)
    elif action == BUS_NOTIFY_REMOVED_DEVICE:
        iommu_release_device(dev)


# Devices come and go


def iommu_probe_device(dev: Any) -> None:
    """Put *dev* behind its IOMMU, in a group, on the group's domain. Without one: nothing."""
    core = iommu_core()
    with core.iommu_probe_device_lock:
        if dev.iommu_group is not None:
            return
        for iommu in core.iommu_device_list:
            if iommu.bus is not dev.bus:
                continue
            try:
                found = iommu.ops.probe_device(dev)
            except Errno as e:
                if e.number != ENODEV:
                    raise
            else:
                _iommu_init_device(dev, found)
                return


def _iommu_init_device(dev: Any, iommu: IommuDevice) -> None:
    dev.iommu = iommu.ops.dev_iommu_alloc(dev)
    dev.iommu.iommu_dev = iommu
    if isinstance(dev, PciDev) and (pasids := pci_max_pasids(dev)):
        dev.iommu.max_pasids = min(pasids, iommu.max_pasids)
    sysfs.iommu_device_link(iommu, dev)
    group = iommu.ops.device_group(dev)
    with group.mutex:
        _iommu_group_add_device(group, dev)
        if group.default_domain is None:
            group.default_domain = iommu.ops.domain_alloc(dev, iommu_core().def_domain_type)
            group.domain = group.default_domain
        assert group.domain is not None
        group.domain.attach_dev(dev)


def iommu_group_add_device(group: IommuGroup, dev: Any) -> None:
    """Put *dev*, which no IOMMU translates for, into *group*."""
    with group.mutex:
        _iommu_group_add_device(iommu_group_ref_get(group), dev)


def iommu_group_remove_device(dev: Any) -> None:
    iommu_release_device(dev)


def _iommu_group_add_device(group: IommuGroup, dev: Any) -> None:
    """Make *dev* a member; the caller's group reference becomes the device's."""
    lockdep_assert_held(group.mutex)
    name = sysfs.iommu_group_link(group, dev)
    dev.iommu_group = group
    group.devices.append(GroupDevice(dev, name))


def iommu_release_device(dev: Any) -> None:
    """*dev* leaves its group, drops the reference it had, and is behind no IOMMU any more."""
    group = dev.iommu_group
    if group is None:
        return
    with group.mutex:
        for member in group.devices:
            if member.dev is dev:
                _iommu_group_free_device(group, member)
                break
    iommu_group_put(group)


def _iommu_group_free_device(group: IommuGroup, member: GroupDevice) -> None:
    lockdep_assert_held(group.mutex)
    dev = member.dev
    group.devices.remove(member)
    sysfs.iommu_group_unlink(group, dev, member.name)
    if not group.devices:
        WARN_ON(
            group.owner_cnt or group.domain is not group.default_domain,
            f"iommu group {group.id} lost its last device while it was owned",
        )
    if dev.iommu is not None:
        _iommu_deinit_device(group, dev)
    dev.iommu_group = None


def _iommu_deinit_device(group: IommuGroup, dev: Any) -> None:
    iommu = dev.iommu.iommu_dev
    sysfs.iommu_device_unlink(iommu, dev)
    if iommu.ops.release_domain is not None:
        iommu.ops.release_domain.attach_dev(dev)
    dev.iommu.domain = None
    iommu.ops.release_device(dev)
    if not group.devices:
        group.domain = None
        for domain in (group.default_domain, group.blocking_domain):
            if domain is not None:
                iommu_domain_free(domain)
        group.default_domain = group.blocking_domain = None
    kfree(dev.iommu)
    dev.iommu = None


# Groups


def iommu_group_alloc() -> IommuGroup:
    """A new group with the lowest free number, referenced."""
    group = kzalloc(IommuGroup, iommu_core().group_ida.alloc())
    sysfs.iommu_group_create(group)
    return group


def iommu_group_release(group: IommuGroup) -> None:
    """The last reference is gone: only now may the number be used again."""
    sysfs.iommu_group_remove(group)
    iommu_core().group_ida.free(group.id)
    kfree(group)


def iommu_group_set_name(group: IommuGroup, name: str) -> None:
    sysfs.iommu_group_name(group, name)


def iommu_group_get(dev: Any) -> IommuGroup | None:
    """The group of *dev*, referenced."""
    group: IommuGroup | None = dev.iommu_group
    return None if group is None else iommu_group_ref_get(group)


def iommu_group_ref_get(group: IommuGroup) -> IommuGroup:
    group.kref.get()
    return group


def iommu_group_put(group: IommuGroup | None) -> None:
    if group is not None:
        group.kref.put(iommu_group_release, group)


def iommu_group_id(group: IommuGroup) -> int:
    return group.id


def iommu_group_has_isolated_msi(group: IommuGroup) -> bool:
    """Can no device of the group send an interrupt that is not its own?"""
    with group.mutex:
        return all(member.dev.iommu is None or _ops(member.dev).isolated_msi for member in group.devices)


def iommu_get_group_resv_regions(group: IommuGroup) -> list[IommuResvRegion]:
    """What no mapping may touch for any device of the group: ascending, no duplicates."""
    with group.mutex:
        regions = {(r.start, r.last, r.type): r for m in group.devices for r in iommu_get_resv_regions(m.dev)}
    return [regions[key] for key in sorted(regions)]


def iommu_get_resv_regions(dev: Any) -> list[IommuResvRegion]:
    return [] if dev.iommu is None else _ops(dev).get_resv_regions(dev)


def device_iommu_capable(dev: Any, cap: str) -> bool:
    return dev.iommu is not None and _ops(dev).capable(dev, cap)


# Domains


def iommu_paging_domain_alloc_flags(dev: Any, flags: int = 0, user_data: Any = None) -> IommuDomain:
    """A domain for mappings of *dev*'s user, who may have said more. Errno ENODEV, EOPNOTSUPP."""
    if dev.iommu is None:
        raise Errno(ENODEV)
    return _ops(dev).domain_alloc_paging_flags(dev, flags, user_data)


def iommu_domain_free(domain: IommuDomain) -> None:
    domain.ops.domain_free(domain)


def iommu_attach_group(domain: IommuDomain, group: IommuGroup) -> None:
    """Errno EBUSY when the group has another user's domain, EINVAL when it cannot be."""
    with group.mutex:
        _iommu_attach_group(domain, group)


def _iommu_attach_group(domain: IommuDomain, group: IommuGroup) -> None:
    lockdep_assert_held(group.mutex)
    if group.domain not in (None, group.default_domain, group.blocking_domain):
        raise Errno(EBUSY)
    _check_domain_fits(domain, group)
    _iommu_group_set_domain(group, domain)


def iommu_detach_group(_domain: IommuDomain, group: IommuGroup) -> None:
    """Whatever domain it has, the group gets the blocking one while it is owned, else the default."""
    with group.mutex:
        _iommu_group_set_core_domain(group)


def iommu_attach_group_handle(domain: IommuDomain, group: IommuGroup, handle: IommuAttachHandle) -> None:
    """As :func:`iommu_attach_group`, for an owner that has claimed the group. Errno EBUSY attached already."""
    with group.mutex:
        group.pasid_array.insert(IOMMU_NO_PASID, XA_ZERO_ENTRY)
        try:
            _iommu_attach_group(domain, group)
        except Errno:
            group.pasid_array.erase(IOMMU_NO_PASID)
            raise
        handle.domain = domain
        group.pasid_array.store(IOMMU_NO_PASID, handle)


def iommu_detach_group_handle(_domain: IommuDomain, group: IommuGroup) -> None:
    with group.mutex:
        _iommu_group_set_core_domain(group)
        group.pasid_array.erase(IOMMU_NO_PASID)


def iommu_replace_group_handle(group: IommuGroup, new_domain: IommuDomain, handle: IommuAttachHandle) -> None:
    """Change domains without a gap in between."""
    with group.mutex:
        _check_domain_fits(new_domain, group)
        _iommu_group_set_domain(group, new_domain)
        handle.domain = new_domain
        group.pasid_array.store(IOMMU_NO_PASID, handle)


def iommu_attach_handle_get(group: IommuGroup, pasid: int, type: str = "") -> IommuAttachHandle:
    """The handle of what is attached to *pasid*. Errno ENOENT, EBUSY when it is not of *type*."""
    with group.pasid_array.xa_lock:
        handle = group.pasid_array.load(pasid)
    if not isinstance(handle, IommuAttachHandle) or handle.domain is None:
        raise Errno(ENOENT)
    if type and handle.domain.type != type:
        raise Errno(EBUSY)
    return handle


def _check_domain_fits(domain: IommuDomain, group: IommuGroup) -> None:
    if any(member.dev.iommu is None or _ops(member.dev) is not domain.ops for member in group.devices):
        raise Errno(EINVAL)


def _iommu_group_set_domain(group: IommuGroup, new_domain: IommuDomain) -> None:
    """Attach every device, or none. Errno is what the driver says."""
    lockdep_assert_held(group.mutex)
    if group.domain is new_domain:
        return
    done: list[Any] = []
    try:
        for member in group.devices:
            new_domain.attach_dev(member.dev)
            done.append(member.dev)
    except Errno:
        for dev in done:
            if group.domain is not None:
                group.domain.attach_dev(dev)
        raise
    group.domain = new_domain


def _iommu_group_set_core_domain(group: IommuGroup) -> None:
    domain = group.blocking_domain if group.owner is not None else group.default_domain
    if domain is None:
        group.domain = None
        return
    try:
        _iommu_group_set_domain(group, domain)
    except Errno as e:
        raise Splat("warning", f"the default or blocking domain of {group!r} does not attach: {e}") from None


def iommu_group_set_default_domain(group: IommuGroup, domain: IommuDomain) -> None:
    """Use *domain* as long as the group has no user; nobody owns the group."""
    lockdep_assert_held(group.mutex)
    _iommu_group_set_domain(group, domain)
    group.default_domain = domain


# Ownership


def iommu_device_use_default_domain(dev: Any) -> None:
    """A kernel driver is about to do DMA. Errno EBUSY while user space owns the group."""
    group: IommuGroup | None = dev.iommu_group
    if group is None:
        return
    with group.mutex:
        if group.owner_cnt and (group.domain is not group.default_domain or group.owner is not None):
            raise Errno(EBUSY, f"iommu group {group.id} is owned by user space")
        group.owner_cnt += 1


def iommu_device_unuse_default_domain(dev: Any) -> None:
    group: IommuGroup | None = dev.iommu_group
    if group is None:
        return
    with group.mutex:
        if not WARN_ON(not group.owner_cnt, "default domain given back twice"):
            group.owner_cnt -= 1


def iommu_group_claim_dma_owner(group: IommuGroup, owner: Any) -> None:
    """All DMA of the group is *owner*'s alone. Errno EPERM when it is anybody's already."""
    WARN_ON(owner is None, "DMA claimed for nobody")
    with group.mutex:
        if group.owner_cnt:
            raise Errno(EPERM, f"iommu group {group.id} is in use")
        _iommu_take_dma_ownership(group, owner)


def iommu_device_claim_dma_owner(dev: Any, owner: Any) -> None:
    """The same through a device; several devices of one group may share their owner."""
    WARN_ON(owner is None, "DMA claimed for nobody")
    group: IommuGroup | None = dev.iommu_group
    if group is None:
        raise Errno(ENODEV)
    with group.mutex:
        if not group.owner_cnt:
            _iommu_take_dma_ownership(group, owner)
        elif group.owner is not owner:
            raise Errno(EPERM, f"iommu group {group.id} is in use")
        else:
            group.owner_cnt += 1


def iommu_group_release_dma_owner(group: IommuGroup) -> None:
    with group.mutex:
        _iommu_release_dma_ownership(group)


def iommu_device_release_dma_owner(dev: Any) -> None:
    group: IommuGroup = dev.iommu_group
    with group.mutex:
        if group.owner_cnt > 1:
            group.owner_cnt -= 1
        else:
            _iommu_release_dma_ownership(group)


def iommu_group_dma_owner_claimed(group: IommuGroup) -> bool:
    with group.mutex:
        return bool(group.owner_cnt)


def _iommu_take_dma_ownership(group: IommuGroup, owner: Any) -> None:
    lockdep_assert_held(group.mutex)
    if group.domain is not None and group.domain is not group.default_domain:
        raise Errno(EBUSY)
    if group.blocking_domain is None and group.devices and group.devices[0].dev.iommu is not None:
        dev = group.devices[0].dev
        group.blocking_domain = _ops(dev).domain_alloc(dev, IOMMU_DOMAIN_BLOCKED)
    if group.blocking_domain is not None:
        _iommu_group_set_domain(group, group.blocking_domain)
    group.owner = owner
    group.owner_cnt += 1


def _iommu_release_dma_ownership(group: IommuGroup) -> None:
    if WARN_ON(not group.owner_cnt or group.owner is None, f"{group!r} is released, but nobody owns it"):
        return
    group.owner_cnt = 0
    group.owner = None
    _iommu_group_set_core_domain(group)


def _ops(dev: Any) -> IommuOps:
    """``dev_iommu_ops()``."""
    ops: IommuOps = dev.iommu.iommu_dev.ops
    return ops
