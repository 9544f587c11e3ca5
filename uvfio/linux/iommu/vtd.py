# SPDX-License-Identifier: GPL-2.0-only
"""
An Intel IOMMU (VT-d) as QEMU's ``intel-iommu`` emulates it, and its driver.

Mirrors ``drivers/iommu/intel/iommu.c``; hardware and driver are one here. All
differences from Linux:

* mappings are ranges, not page-table entries, so leaf sizes are only a promise;
* no nesting, no dirty tracking, no PASID or ATS (the emulated hardware has none
  either), no interrupt remapping table: interrupts are simply isolated;
* a fault is recorded with what the fault registers would hold; there is no register
  window.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from errno import EOPNOTSUPP
from typing import Any

from uvfio.linux.base.pci import pci_bus_type
from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu import iommu, sysfs
from uvfio.linux.iommu.pci_group import pci_device_group
from uvfio.linux.iommu.private import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DEFERRED_FLUSH,
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
)
from uvfio.linux.kernel.kernfs import Attribute
from uvfio.linux.kernel.printk import printk
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct, kzalloc
from uvfio.runtime.task import per_machine
from uvfio.uapi.iommufd import (
    IOMMU_HW_INFO_TYPE_DEFAULT,
    IOMMU_HW_INFO_TYPE_INTEL_VTD,
    IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
    IOMMU_HWPT_ALLOC_PASID,
    iommu_hw_info_vtd,
)

IOAPIC_RANGE_START = 0xFEE00000
IOAPIC_RANGE_END = 0xFEEFFFFF

PGSIZE_BITMAP = 0x40201000  # 4 KiB, 2 MiB, 1 GiB
ADDRESS_WIDTH = 39
REGISTERS = 0xFED90000
CAP_REG = 0xD2008C22260286
ECAP_REG = 0xF00F4A

MAX_FAULTS = 1000

# Fault reasons, with the words of the driver.
FAULT_BLOCKED = (0x02, "Present bit in context entry is clear")
FAULT_WRITE = (0x05, "PTE Write access is not set")
FAULT_READ = (0x06, "PTE Read access is not set")


@dataclass(frozen=True)
class DmarFault:
    """One entry of the fault log: what ``dmar_fault()`` prints."""

    source: str  # the device
    addr: int  # its page
    write: bool
    reason: int
    text: str

    def __str__(self) -> str:
        kind = "Write" if self.write else "Read"
        return (
            f"DMAR: [DMA {kind} NO_PASID] Request device [{self.source[5:]}] fault addr {self.addr:#x} "
            f"[fault reason {self.reason:#04x}] {self.text}"
        )


class IntelIommu:
    """The IOMMU of one machine, and its last faults."""

    def __init__(self) -> None:
        self.iommu = IommuDevice("dmar0", IntelIommuOps())
        self.faults: deque[DmarFault] = deque(maxlen=MAX_FAULTS)

    def fault(self, fault: DmarFault) -> None:
        self.faults.append(fault)
        printk(str(fault))


intel_iommu = per_machine(IntelIommu)


def iommu_init() -> None:
    """Find the IOMMU and let it serve the PCI bus."""
    device = intel_iommu().iommu
    attrs = [
        Attribute("version", 0o444, lambda: "1:0\n"),
        Attribute("address", 0o444, lambda: f"{REGISTERS:x}\n"),
        Attribute("cap", 0o444, lambda: f"{CAP_REG:x}\n"),
        Attribute("ecap", 0o444, lambda: f"{ECAP_REG:x}\n"),
        Attribute("domains_supported", 0o444, lambda: "65536\n"),
        Attribute("domains_used", 0o444, lambda: f"{device.ops.domains}\n"),
    ]
    sysfs.iommu_device_sysfs_add(device, attrs, "intel-iommu")
    iommu.iommu_device_register(device)
    iommu.iommu_subsys_init(pci_bus_type())


@kstruct()
class DeviceDomainInfo(DevIommu):
    """``struct device_domain_info``: a device behind this IOMMU."""

    def translate(self, iova: int, n: int, write: bool) -> list[tuple[PinnedPages, int, int]]:
        domain = self.domain
        pieces, fault = ([], iova) if domain is None else domain.walk(iova, n, IOMMU_WRITE if write else IOMMU_READ)
        if fault is None:
            return pieces
        paging = domain is not None and domain.pgsize_bitmap
        reason, text = FAULT_BLOCKED if not paging else FAULT_WRITE if write else FAULT_READ
        intel_iommu().fault(DmarFault(self.dev.name, fault & ~0xFFF, write, reason, text))
        raise DmaFault(fault)


class IntelIommuOps(IommuOps):
    """``intel_iommu_ops``."""

    pgsize_bitmap = PGSIZE_BITMAP
    isolated_msi = True

    def __init__(self) -> None:
        self.domains = 0

    def capable(self, dev: Any, cap: str) -> bool:
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
        info = iommu_hw_info_vtd(flags=IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17, cap_reg=CAP_REG, ecap_reg=ECAP_REG)
        return IOMMU_HW_INFO_TYPE_INTEL_VTD, info.pack()

    def domain_alloc(self, dev: Any, type: str) -> IommuDomain:
        if type in (IOMMU_DOMAIN_BLOCKED, IOMMU_DOMAIN_IDENTITY):
            return IommuDomain(self, type)
        self.domains += 1
        return IommuDomain(self, type, PGSIZE_BITMAP, (1 << ADDRESS_WIDTH) - 1)

    def domain_alloc_paging_flags(self, dev: Any, flags: int, user_data: Any) -> IommuDomain:
        if flags & ~IOMMU_HWPT_ALLOC_PASID or user_data is not None:
            raise Errno(EOPNOTSUPP)
        return self.domain_alloc(dev, IOMMU_DOMAIN_UNMANAGED)

    def domain_alloc_nested(self, dev: Any, parent: IommuDomain, flags: int, user_data: Any) -> IommuDomain:
        raise Errno(EOPNOTSUPP, "the hardware cannot nest")

    def domain_free(self, domain: IommuDomain) -> None:
        if domain.pgsize_bitmap:
            self.domains -= 1

    def attach_dev(self, domain: IommuDomain, dev: Any) -> None:
        dev.iommu.domain = domain
