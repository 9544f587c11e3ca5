# SPDX-License-Identifier: GPL-2.0-only
"""
The IOMMU of s390's PCI. Mirrors ``drivers/iommu/s390-iommu.c``.

A function has one translation table at a time, registered with the hardware under its
handle; no table: all DMA is blocked. An attach goes through the static blocking domain,
so a failure in the middle leaves the device blocked, never on what it was on before.
What the hardware may answer is in ``zpci_insn.py``. All differences from Linux:

* ``attach_dev`` is not told the old domain: it asks ``zdev.s390_domain``;
* mappings are ranges, so there are no region and segment tables and no counters of
  refreshes by kind;
* one ``s390-iommu`` in ``/sys/class/iommu`` serves all functions, instead of one for each;
* a refresh for lack of resources in the hypervisor never fails, so nothing is retried;
* the list of a domain's devices is an immutable sequence that is replaced: who walks it
  sees it as it was at one moment.

As in Linux (as far as we know), an attach does **not** hold ``dom_lock`` from asking the
hardware to noting what was asked, so a reset in between registers the wrong table.

Lock order: ``iommu_group.mutex``, then ``zpci_dev.dom_lock`` or ``list_lock``, leaves.
"""

from __future__ import annotations

from errno import EINVAL, EIO, ENODEV, EOPNOTSUPP
from typing import Any

from uvfio.linux.base.pci import pci_bus_type
from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu import iommu, sysfs, zpci_insn
from uvfio.linux.iommu.io_pgtable import NO_LIMIT
from uvfio.linux.iommu.pci_group import pci_device_group
from uvfio.linux.iommu.private import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DEFERRED_FLUSH,
    IOMMU_DOMAIN_BLOCKED,
    IOMMU_DOMAIN_IDENTITY,
    IOMMU_DOMAIN_UNMANAGED,
    IOMMU_READ,
    IOMMU_RESV_RESERVED,
    IOMMU_WRITE,
    DevIommu,
    IommuDevice,
    IommuDomain,
    IommuGroup,
    IommuOps,
    IommuResvRegion,
)
from uvfio.linux.iommu.zpci_insn import ZpciDev
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.mutex import Spinlock
from uvfio.linux.kernel.process import PinnedPages
from uvfio.linux.kernel.rcu import call_rcu, rcu_read
from uvfio.runtime.errors import Errno, Splat
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.runtime.task import per_machine

PGSIZE_BITMAP = 0x1000
APERTURE_END = (1 << 53) - 1  # what three levels of region tables reach


class ZpciIommuCtrs:
    """``struct zpci_iommu_ctrs``: what debugfs shows of a domain."""

    def __init__(self) -> None:
        self.mapped_pages = 0
        self.unmapped_pages = 0


@kstruct("ctrs", racy=("devices",))  # an RCU list
class S390Domain(IommuDomain):
    """``struct s390_domain``: a translation table and the devices that use it."""

    def __init__(self, ops: IommuOps, type: str) -> None:
        super().__init__(ops, type, PGSIZE_BITMAP, APERTURE_END)
        self.list_lock = Spinlock("s390_domain.list_lock")
        self.devices: tuple[ZpciDev, ...] = ()  # written under list_lock, read under RCU
        self.ctrs = ZpciIommuCtrs()

    def map(self, iova: int, pages: PinnedPages, offset: int, length: int, prot: int, max_leaf: int = NO_LIMIT) -> None:
        super().map(iova, pages, offset, length, prot, max_leaf)
        self.ctrs.mapped_pages += length // PGSIZE_BITMAP
        s390_iommu_iotlb_sync(self)

    def unmap(self, iova: int, length: int) -> int:
        unmapped = super().unmap(iova, length)
        self.ctrs.unmapped_pages += unmapped // PGSIZE_BITMAP
        s390_iommu_iotlb_sync(self)
        return unmapped


class S390Iommu:
    """Statics of ``s390-iommu.c``."""

    def __init__(self) -> None:
        self.iommu = IommuDevice("s390-iommu", S390IommuOps())
        self.devices: dict[str, ZpciDev] = {}  # by address: what to_zpci_dev() follows sysdata for


s390_iommu = per_machine(S390Iommu)


def s390_iommu_init() -> None:
    """Let the IOMMU serve the PCI bus."""
    device = s390_iommu().iommu
    sysfs.iommu_device_sysfs_add(device, [])
    iommu.iommu_device_register(device)
    iommu.iommu_subsys_init(pci_bus_type())


def to_zpci_dev(dev: Any) -> ZpciDev:
    zdev: ZpciDev = dev.iommu.zdev
    return zdev


def to_s390_domain(domain: IommuDomain | None) -> S390Domain:
    """``container_of``: right only for a domain that has a table."""
    if domain is None:
        raise Splat("null-pointer", "to_s390_domain() of no domain at all")
    if not isinstance(domain, S390Domain):
        raise Splat("out-of-bounds", f"to_s390_domain() of a static {domain!r}, which has no table around it")
    return domain


@kstruct()
class S390DevIommu(DevIommu):
    """What the IOMMU keeps for a device: the zPCI function that it is."""

    def __init__(self, dev: Any, zdev: ZpciDev) -> None:
        super().__init__(dev)
        self.zdev = zdev

    def translate(self, iova: int, n: int, write: bool) -> list[tuple[PinnedPages, int, int]]:
        """Through what the hardware has registered, whatever the kernel believes."""
        table = zpci_insn.zpci_function(self.zdev).iota
        if table is None or table == zpci_insn.IOTA_RTTO_FLAG:
            raise DmaFault(iova)
        pieces, fault = table.walk(iova, n, IOMMU_WRITE if write else IOMMU_READ)
        if fault is not None:
            raise DmaFault(fault)
        found: list[tuple[PinnedPages, int, int]] = pieces
        return found


class S390IommuOps(IommuOps):
    """``s390_iommu_rtr_ops``: with the identity domain that firmware may offer."""

    pgsize_bitmap = PGSIZE_BITMAP
    isolated_msi = True

    def __init__(self) -> None:
        self.blocking_domain = IommuDomain(self, IOMMU_DOMAIN_BLOCKED)
        self.identity_domain = IommuDomain(self, IOMMU_DOMAIN_IDENTITY)
        self.release_domain = self.blocking_domain

    def capable(self, dev: Any, cap: str) -> bool:
        return cap in (IOMMU_CAP_CACHE_COHERENCY, IOMMU_CAP_DEFERRED_FLUSH)

    def probe_device(self, dev: Any) -> IommuDevice:
        zdev = s390_iommu().devices.get(dev.name)
        if zdev is None:
            raise Errno(ENODEV)
        zdev.s390_domain = self.blocking_domain
        return s390_iommu().iommu

    def dev_iommu_alloc(self, dev: Any) -> DevIommu:
        return kzalloc(S390DevIommu, dev, s390_iommu().devices[dev.name])

    def device_group(self, dev: Any) -> IommuGroup:
        return pci_device_group(dev)

    def get_resv_regions(self, dev: Any) -> list[IommuResvRegion]:
        zdev = to_zpci_dev(dev)
        last = zdev.end_dma + 1
        return [
            IommuResvRegion(0, zdev.start_dma, IOMMU_RESV_RESERVED),
            IommuResvRegion(last, APERTURE_END + 1 - last, IOMMU_RESV_RESERVED),
        ]

    def domain_alloc(self, dev: Any, type: str) -> IommuDomain:
        if type == IOMMU_DOMAIN_BLOCKED:
            return self.blocking_domain
        if type == IOMMU_DOMAIN_IDENTITY:
            return self.identity_domain
        return kzalloc(S390Domain, self, type)

    def domain_alloc_paging_flags(self, dev: Any, flags: int, user_data: Any) -> IommuDomain:
        if flags or user_data is not None:
            raise Errno(EOPNOTSUPP)
        return self.domain_alloc(dev, IOMMU_DOMAIN_UNMANAGED)

    def domain_free(self, domain: IommuDomain) -> None:
        if isinstance(domain, S390Domain):
            s390_domain_free(domain)

    def attach_dev(self, domain: IommuDomain, dev: Any) -> None:
        zdev = to_zpci_dev(dev)
        if domain is self.blocking_domain:
            blocking_domain_attach_device(domain, zdev)
        elif domain is self.identity_domain:
            s390_attach_dev_identity(domain, zdev)
        else:
            s390_iommu_attach_device(domain, zdev)


# Attaching: the caller holds the mutex of the device's group.


def s390_iommu_attach_device(domain: IommuDomain, zdev: ZpciDev) -> None:
    """Errno EINVAL when the apertures are apart, EIO when the hardware refuses."""
    if WARN_ON(
        domain.aperture_start > zdev.end_dma or domain.aperture_end < zdev.start_dma,
        f"{domain!r} and {zdev!r} have no address in common",
    ):
        raise Errno(EINVAL)
    blocking_domain_attach_device(s390_blocking_domain(), zdev)
    s390_domain = to_s390_domain(domain)
    # From here on a failure leaves the device blocked.
    reg_ioat_propagate_error(s390_iommu_domain_reg_ioat(zdev, domain))
    zdev.dma_table = s390_domain
    zdev_s390_domain_update(zdev, domain)
    with s390_domain.list_lock:
        s390_domain.devices = (*s390_domain.devices, zdev)


def s390_attach_dev_identity(domain: IommuDomain, zdev: ZpciDev) -> None:
    """Errno EIO when the hardware refuses."""
    blocking_domain_attach_device(s390_blocking_domain(), zdev)
    reg_ioat_propagate_error(s390_iommu_domain_reg_ioat(zdev, domain))
    zdev_s390_domain_update(zdev, domain)


def blocking_domain_attach_device(domain: IommuDomain, zdev: ZpciDev) -> None:
    """Take *zdev* off whatever it is on. Cannot fail: a function that is gone does no DMA."""
    old = zdev.s390_domain
    if old.type == IOMMU_DOMAIN_BLOCKED:
        return
    if zdev.dma_table is not None:  # the identity domain has no list of devices
        s390_domain = to_s390_domain(old)
        with s390_domain.list_lock:
            s390_domain.devices = tuple(each for each in s390_domain.devices if each is not zdev)
    zpci_insn.zpci_unregister_ioat(zdev)
    zdev.dma_table = None
    zdev_s390_domain_update(zdev, domain)


def s390_blocking_domain() -> IommuDomain:
    ops = s390_iommu().iommu.ops
    assert isinstance(ops, S390IommuOps)
    return ops.blocking_domain


def zdev_s390_domain_update(zdev: ZpciDev, domain: IommuDomain) -> None:
    with zdev.dom_lock:
        zdev.s390_domain = domain


def s390_iommu_domain_reg_ioat(zdev: ZpciDev, domain: IommuDomain) -> zpci_insn.Answer:
    """Register the table of *domain*, if it has one."""
    if domain.type == IOMMU_DOMAIN_BLOCKED:
        return zpci_insn.ZPCI_CC_OK, 0
    if domain.type == IOMMU_DOMAIN_IDENTITY:
        return zpci_insn.zpci_register_ioat(zdev, zpci_insn.IOTA_RTTO_FLAG)
    return zpci_insn.zpci_register_ioat(zdev, to_s390_domain(domain))


def reg_ioat_propagate_error(answer: zpci_insn.Answer) -> None:
    """
    Errno EIO, unless the function is only not there for now (a reset will register
    again) or for good (it does no DMA): then an attach must go on.
    """
    cc, status = answer
    if cc == zpci_insn.ZPCI_CC_OK:
        return
    if cc == zpci_insn.ZPCI_CC_ERR and status == zpci_insn.ZPCI_PCI_ST_FUNC_NOT_AVAIL:
        return
    if cc == zpci_insn.ZPCI_CC_INVAL_HANDLE:
        return
    raise Errno(EIO, f"the function answered condition code {cc}, status {status}")


# For arch/s390/pci


def zpci_iommu_register_ioat(zdev: ZpciDev) -> zpci_insn.Answer:
    """The function was disabled and enabled: register again what it is attached to."""
    with zdev.dom_lock:
        return s390_iommu_domain_reg_ioat(zdev, zdev.s390_domain)


def zpci_get_iommu_ctrs(zdev: ZpciDev) -> ZpciIommuCtrs | None:
    """The counters of the domain it is on; None for one without a table."""
    lockdep_assert_held(zdev.dom_lock)
    domain = zdev.s390_domain
    if domain.type in (IOMMU_DOMAIN_BLOCKED, IOMMU_DOMAIN_IDENTITY):
        return None
    return to_s390_domain(domain).ctrs


# The life of a domain


def s390_iommu_iotlb_sync(domain: S390Domain) -> None:
    """Tell every device of *domain* that the table has changed. One that is gone does not care."""
    with rcu_read():
        for zdev in domain.devices:
            if zdev.tlb_refresh:
                zpci_insn.zpci_refresh_trans(zdev)


def s390_domain_free(domain: S390Domain) -> None:
    with rcu_read():
        WARN_ON(domain.devices, f"{domain!r} is freed while devices are attached to it")
    call_rcu(lambda: s390_iommu_rcu_free_domain(domain))


def s390_iommu_rcu_free_domain(domain: S390Domain) -> None:
    zpci_insn.zpci_table_freed(domain)
    kfree(domain)
