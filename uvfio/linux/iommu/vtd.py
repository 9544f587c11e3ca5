# SPDX-License-Identifier: GPL-2.0-only
"""
An Intel IOMMU (VT-d), and its driver.

By itself it is what QEMU's ``intel-iommu`` emulates. In scalable mode it is what servers
have: a first stage for plain domains, nested translation (``vtd_nested.py``), dirty
tracking in the second stage, PASIDs, page requests.

Mirrors ``drivers/iommu/intel/iommu.c`` and ``pasid.c``; hardware and driver are one here.
All differences from Linux:

* a device that has ATS caches nothing; it may ask for pages (PRI), in groups as large as it
  likes;
* no SVA, no interrupt remapping table: interrupts are simply isolated;
* no root, context and PASID tables: what a device or a PASID is on is an attribute;
* only what a guest's first stage made is cached (``first_stage.py``), so a mapping of the
  kernel is gone when it is unmapped.

What the hardware can do, and how it tells of faults, is in ``vtd_hw.py``.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, EOPNOTSUPP
from typing import Any

from uvfio.linux.base.pci import pci_bus_type
from uvfio.linux.base.pci_ats import pci_ats_supported, pci_pri_supported
from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu import io_pgfault, iommu, sysfs, vtd_nested
from uvfio.linux.iommu.pci_group import pci_device_group
from uvfio.linux.iommu.private import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DEFERRED_FLUSH,
    IOMMU_CAP_DIRTY_TRACKING,
    IOMMU_DOMAIN_BLOCKED,
    IOMMU_DOMAIN_IDENTITY,
    IOMMU_DOMAIN_UNMANAGED,
    IOMMU_READ,
    IOMMU_RESV_MSI,
    IOMMU_WRITE,
    DevIommu,
    IommuDevice,
    IommuDomain,
    IommuGroup,
    IommuOps,
    IommuResvRegion,
    IotlbLine,
)
from uvfio.linux.iommu.vtd_hw import (
    FAULT_BLOCKED,
    FAULT_READ,
    FAULT_WRITE,
    SM_BLOCKED,
    SM_FIRST_STAGE,
    SM_SECOND_STAGE,
    DmarFault,
    DmarHardware,
    VtdOptions,
)
from uvfio.linux.kernel.kernfs import Attribute
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct, kzalloc
from uvfio.runtime.task import per_machine
from uvfio.uapi.iommufd import (
    IOMMU_HW_INFO_TYPE_DEFAULT,
    IOMMU_HW_INFO_TYPE_INTEL_VTD,
    IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    iommu_hw_info_vtd,
)

IOAPIC_RANGE_START = 0xFEE00000
IOAPIC_RANGE_END = 0xFEEFFFFF

PGSIZE_BITMAP = 0x40201000  # 4 KiB, 2 MiB, 1 GiB
REGISTERS = 0xFED90000
FIRST_STAGE_BITS = 47  # of a canonical address, the lower half


class IntelIommu(DmarHardware):
    """The IOMMU of one machine."""

    def __init__(self) -> None:
        super().__init__()
        self.iommu = IommuDevice("dmar0", IntelIommuOps())
        self.iopf_queue = io_pgfault.IopfQueue("dmar0-iopfq")


intel_iommu = per_machine(IntelIommu)


def iommu_init(options: VtdOptions | None = None) -> None:
    """Find the IOMMU, as *options* have it, and let it serve the PCI bus. ValueError."""
    hardware = intel_iommu()
    hardware.set_options(options or VtdOptions())
    device = hardware.iommu
    device.max_pasids = hardware.max_pasids
    attrs = [
        Attribute("version", 0o444, lambda: "1:0\n"),
        Attribute("address", 0o444, lambda: f"{REGISTERS:x}\n"),
        Attribute("cap", 0o444, lambda: f"{hardware.cap:x}\n"),
        Attribute("ecap", 0o444, lambda: f"{hardware.ecap:x}\n"),
        Attribute("domains_supported", 0o444, lambda: "65536\n"),
        Attribute("domains_used", 0o444, lambda: f"{device.ops.domains}\n"),
    ]
    sysfs.iommu_device_sysfs_add(device, attrs, "intel-iommu")
    iommu.iommu_device_register(device)
    iommu.iommu_subsys_init(pci_bus_type())


@kstruct()
class DeviceDomainInfo(DevIommu):
    """``struct device_domain_info``: a device behind this IOMMU."""

    def __init__(self, dev: Any) -> None:
        super().__init__(dev)
        self.pasids: dict[int, IommuDomain] = {}  # the PASID table, but for the device's own entry
        hardware = intel_iommu()
        self.ats_supported = hardware.prs_supported and pci_ats_supported(dev)
        self.pri_enabled = self.ats_supported and pci_pri_supported(dev)
        self.iopf_refcount = 0
        self.attached: IommuDomain | None = None  # group.mutex; the domain, for who may change it

    def translate(self, iova: int, n: int, write: bool, pasid: int = 0) -> list[tuple[PinnedPages, int, int]]:
        domain = self.pasids.get(pasid) if pasid else self.domain
        prot = IOMMU_WRITE if write else IOMMU_READ
        if domain is None:
            fault: int | None = iova
        elif pasid and isinstance(domain, vtd_nested.IntelNestedDomain):
            pieces, fault = domain.walk_pasid(iova, n, prot, pasid)
        else:
            pieces, fault = domain.walk(iova, n, prot)
        if fault is None:
            return pieces
        reason, text = _fault_reason(domain, write)
        intel_iommu().fault(DmarFault(self.dev.name, fault & ~0xFFF, write, reason, text, pasid))
        raise DmaFault(fault)

    def iotlb(self) -> list[IotlbLine]:
        found: list[IotlbLine] = []
        for pasid, domain in sorted({0: self.domain, **self.pasids}.items()):
            if isinstance(domain, vtd_nested.IntelNestedDomain):
                found += [line for line in domain.first_stage.lines() if line.tag == pasid]
        return found

    def page_request(self, addr: int, write: bool, pasid: int, group: int, last: bool) -> None:
        """``prq_event_thread()``. A request without a PASID is no good."""
        if not self.pri_enabled:
            return
        if not pasid:
            self.dev.model.page_response(pasid, group, False)
            return
        flags = io_pgfault.IOMMU_FAULT_PAGE_REQUEST_PASID_VALID
        if last:
            flags |= io_pgfault.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE
        perm = io_pgfault.IOMMU_FAULT_PERM_WRITE if write else io_pgfault.IOMMU_FAULT_PERM_READ
        fault = io_pgfault.IopfFault(flags, pasid, group, perm, addr & ~0xFFF)
        try:
            io_pgfault.iommu_report_device_fault(self.dev, fault)
        except Errno:
            return  # nobody helps, and the device has been told


def _fault_reason(domain: IommuDomain | None, write: bool) -> tuple[int, str]:
    """What the hardware says when *domain* has nothing there."""
    scalable = intel_iommu().sm_supported
    if isinstance(domain, vtd_nested.IntelNestedDomain):
        return domain.reason
    if domain is None or not domain.pgsize_bitmap:
        return SM_BLOCKED if scalable else FAULT_BLOCKED
    if scalable:
        return SM_FIRST_STAGE if isinstance(domain, DmarDomain) and domain.use_first_level else SM_SECOND_STAGE
    return FAULT_WRITE if write else FAULT_READ


class DmarDomain(IommuDomain):
    """``struct dmar_domain``: of the first or the second stage."""

    def __init__(self, ops: IommuOps, type: str, bits: int, first_level: bool, flags: int = 0) -> None:
        super().__init__(ops, type, PGSIZE_BITMAP, (1 << bits) - 1)
        self.use_first_level = first_level
        self.nested_parent = bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT)
        self.dirty_tracking = bool(flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING)


class IntelIommuOps(IommuOps):
    """``intel_iommu_ops``."""

    pgsize_bitmap = PGSIZE_BITMAP
    isolated_msi = True

    def __init__(self) -> None:
        self.domains = 0

    def capable(self, dev: Any, cap: str) -> bool:
        if cap == IOMMU_CAP_DIRTY_TRACKING:
            return intel_iommu().ssads_supported
        return cap in (IOMMU_CAP_CACHE_COHERENCY, IOMMU_CAP_DEFERRED_FLUSH)

    def probe_device(self, dev: Any) -> IommuDevice:
        return intel_iommu().iommu

    def dev_iommu_alloc(self, dev: Any) -> DevIommu:
        return kzalloc(DeviceDomainInfo, dev)

    def device_group(self, dev: Any) -> IommuGroup:
        return pci_device_group(dev)

    def get_resv_regions(self, dev: Any) -> list[IommuResvRegion]:
        length = IOAPIC_RANGE_END + 1 - IOAPIC_RANGE_START
        return [IommuResvRegion(IOAPIC_RANGE_START, length, IOMMU_RESV_MSI)]

    def hw_info(self, dev: Any, type: int) -> tuple[int, bytes]:
        if type not in (IOMMU_HW_INFO_TYPE_DEFAULT, IOMMU_HW_INFO_TYPE_INTEL_VTD):
            raise Errno(EOPNOTSUPP)
        flags, hardware = IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17, intel_iommu()
        info = iommu_hw_info_vtd(flags=flags, cap_reg=hardware.cap, ecap_reg=hardware.ecap)
        return IOMMU_HW_INFO_TYPE_INTEL_VTD, info.pack()

    def domain_alloc(self, dev: Any, type: str) -> IommuDomain:
        if type in (IOMMU_DOMAIN_BLOCKED, IOMMU_DOMAIN_IDENTITY):
            return IommuDomain(self, type)
        return self._alloc_paging(type, 0)

    def domain_alloc_paging_flags(self, dev: Any, flags: int, user_data: Any) -> IommuDomain:
        if user_data is not None:
            raise Errno(EOPNOTSUPP)
        return self._alloc_paging(IOMMU_DOMAIN_UNMANAGED, flags)

    def _alloc_paging(self, type: str, flags: int) -> IommuDomain:
        """Of the first stage if the hardware has one and it can do all that *flags* say, else of the second."""
        hardware = intel_iommu()
        if hardware.sm_supported and not flags & ~IOMMU_HWPT_ALLOC_PASID:
            bits = min(FIRST_STAGE_BITS, hardware.address_width)
            domain = DmarDomain(self, type, bits, first_level=True)
        else:
            if flags & ~(IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_ALLOC_PASID):
                raise Errno(EOPNOTSUPP)
            if flags & IOMMU_HWPT_ALLOC_NEST_PARENT and not hardware.nested_supported:
                raise Errno(EOPNOTSUPP)
            if flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING and not hardware.ssads_supported:
                raise Errno(EOPNOTSUPP)
            domain = DmarDomain(self, type, hardware.address_width, first_level=False, flags=flags)
        self.domains += 1
        return domain

    def domain_alloc_nested(self, dev: Any, parent: IommuDomain, flags: int, user_data: Any) -> IommuDomain:
        return vtd_nested.intel_iommu_domain_alloc_nested(parent, flags, user_data)

    def domain_free(self, domain: IommuDomain) -> None:
        if domain.pgsize_bitmap:
            self.domains -= 1

    def attach_dev(self, domain: IommuDomain, dev: Any) -> None:
        """
        Errno EINVAL: a guest's table that the hardware cannot walk; ENODEV: *domain* waits for
        page faults, and *dev* cannot have any.
        """
        if isinstance(domain, vtd_nested.IntelNestedDomain):
            vtd_nested.intel_pasid_setup_nested(domain)
        info: DeviceDomainInfo = dev.iommu
        self.iopf_for_domain_replace(dev, domain, info.attached)
        _flush_pasid(info.attached, 0)
        info.domain = info.attached = domain

    def set_dev_pasid(self, domain: IommuDomain, dev: Any, pasid: int, old: IommuDomain | None) -> None:
        """Errno EOPNOTSUPP no PASIDs; EINVAL a domain that is none for them."""
        if not intel_iommu().pasid_supported:
            raise Errno(EOPNOTSUPP)
        if isinstance(domain, vtd_nested.IntelNestedDomain):
            vtd_nested.intel_pasid_setup_nested(domain)
        elif not domain.pgsize_bitmap or domain.dirty_tracking:
            raise Errno(EINVAL)
        self.iopf_for_domain_replace(dev, domain, old)
        _flush_pasid(old, pasid)
        dev.iommu.pasids[pasid] = domain

    def remove_dev_pasid(self, dev: Any, pasid: int, old: IommuDomain) -> None:
        _flush_pasid(old, pasid)
        dev.iommu.pasids.pop(pasid, None)
        self.iopf_for_domain_replace(dev, None, old)

    def iopf_for_domain_replace(self, dev: Any, new: IommuDomain | None, old: IommuDomain | None) -> None:
        """Page faults of *dev* are taken while any domain that it is on wants them. Errno ENODEV: it has none."""
        info: DeviceDomainInfo = dev.iommu
        if new is not None and new.iopf_handler is not None:
            if not info.pri_enabled:
                raise Errno(ENODEV)
            if not info.iopf_refcount:
                io_pgfault.iopf_queue_add_device(intel_iommu().iopf_queue, dev)
            info.iopf_refcount += 1
        if old is not None and old.iopf_handler is not None:
            info.iopf_refcount -= 1
            if not info.iopf_refcount:
                io_pgfault.iopf_queue_remove_device(intel_iommu().iopf_queue, dev)

    def page_response(self, dev: Any, fault: Any, response: Any) -> None:
        success = response.code == io_pgfault.IOMMU_PAGE_RESP_SUCCESS
        dev.model.page_response(response.pasid, response.grpid, success)


def _flush_pasid(domain: IommuDomain | None, pasid: int) -> None:
    """An entry of the PASID table goes: nothing of what was found through it may be left."""
    if isinstance(domain, vtd_nested.IntelNestedDomain):
        domain.first_stage.invalidate(tag=pasid)
