# SPDX-License-Identifier: GPL-2.0-only
"""
An AMD IOMMU, and its driver.

Mirrors ``drivers/iommu/amd/iommu.c``, ``init.c`` and ``iommufd.c``; hardware and driver
are one here, what guests get is in ``amd_nested.py``. All differences from Linux:

* one IOMMU serves all of the root bus, and is no PCI function itself; there is no IVRS
  table, so no firmware reservations and no aliases;
* no ATS and no page requests, no SVA, no interrupt remapping table: interrupts are simply
  isolated;
* a device table entry is what the device's attachment says; it changes in one step;
* only what a guest's tables made is cached (``first_stage.py``), so a mapping of the
  kernel is gone when it is unmapped;
* an event is recorded as the driver would print it; there is no event log register.

As in Linux 7.3, hardware without dirty tracking can have no nest parents either.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP
from typing import Any

from uvfio.linux.base.pci import pci_bus_type
from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu import amd_nested, iommu, sysfs
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
    IOMMU_RESV_RESERVED,
    IOMMU_WRITE,
    DevIommu,
    IommuDevice,
    IommuDomain,
    IommuGroup,
    IommuOps,
    IommuResvRegion,
    IotlbLine,
)
from uvfio.linux.kernel.kernfs import Attribute
from uvfio.linux.kernel.printk import printk
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct, kzalloc
from uvfio.runtime.task import per_machine
from uvfio.uapi.iommufd import (
    IOMMU_HW_INFO_TYPE_AMD,
    IOMMU_HW_INFO_TYPE_DEFAULT,
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_VIOMMU_TYPE_DEFAULT,
    iommu_hw_info_amd,
)

MSI_RANGE = (0xFEE00000, 0xFEEFFFFF)
HT_RANGE = (0xFD_0000_0000, 0xFF_FFFF_FFFF)
PGSIZES_V1 = ((1 << 48) - 1) & ~0xFFF & ~(1 << 38)  # any power of two but 256 GiB
PGSIZES_V2 = 0x40201000  # 4 KiB, 2 MiB, 1 GiB
V1_END = (1 << 48) - 1
V2_END = (1 << 47) - 1
CAP = 0x1F03000F
MAX_PASIDS = 1 << 16

# Extended features: guest translation, how deep and with how many PASIDs; dirty tracking.
FEATURE_GT, FEATURE_IA, FEATURE_GA, FEATURE_HASUP, FEATURE_HDSUP = 1 << 4, 1 << 6, 1 << 7, 1 << 49, 1 << 52
FEATURE_GLX_SHIFT, FEATURE_PASMAX_SHIFT = 14, 32
EFR = FEATURE_IA | FEATURE_GA

EVENTS_KEPT = 1000


@dataclass(frozen=True)
class AmdOptions:
    """What the hardware has: all of it, unless it is told otherwise."""

    nesting: bool = True
    dirty_tracking: bool = True
    pasid: bool = True


class AmdIommu:
    """``struct amd_iommu``, the only one, and its last events."""

    def __init__(self) -> None:
        self.iommu = IommuDevice("ivhd0", AmdIommuOps())
        self.events: deque[str] = deque(maxlen=EVENTS_KEPT)
        self.set_options(AmdOptions())

    def set_options(self, options: AmdOptions) -> None:
        """Before anybody uses it."""
        self.nested_supported = options.nesting
        self.hd_support = options.dirty_tracking
        self.pasid_supported = options.pasid
        self.efr, self.efr2 = EFR, 0
        if options.nesting or options.pasid:
            self.efr |= FEATURE_GT | 1 << FEATURE_GLX_SHIFT | 15 << FEATURE_PASMAX_SHIFT
        if options.dirty_tracking:
            self.efr |= FEATURE_HASUP | FEATURE_HDSUP
        self.iommu.max_pasids = MAX_PASIDS if options.pasid else 0

    def io_page_fault(self, dev: Any, domain_id: int, addr: int, write: bool, pasid: int) -> None:
        """``amd_iommu_report_page_fault()``."""
        flags = 0x0020 if write else 0
        of = f" pasid={pasid:#07x}" if pasid else ""
        text = f"AMD-Vi: Event logged [IO_PAGE_FAULT device={dev.name}{of} domain={domain_id:#06x} address={addr:#x}"
        self.events.append(f"{text} flags={flags:#06x}]")
        printk(self.events[-1])


amd_iommu = per_machine(AmdIommu)


def amd_iommu_init(options: AmdOptions | None = None) -> None:
    """Find the IOMMU, as *options* have it, and let it serve the PCI bus."""
    hardware = amd_iommu()
    hardware.set_options(options or AmdOptions())
    attrs = [
        Attribute("cap", 0o444, lambda: f"{CAP:x}\n"),
        Attribute("features", 0o444, lambda: f"{hardware.efr:x}:{hardware.efr2:x}\n"),
    ]
    sysfs.iommu_device_sysfs_add(hardware.iommu, attrs, "amd-iommu")
    iommu.iommu_device_register(hardware.iommu)
    iommu.iommu_subsys_init(pci_bus_type())


@kstruct()
class IommuDevData(DevIommu):
    """``struct iommu_dev_data``: a device behind this IOMMU."""

    def __init__(self, dev: Any) -> None:
        super().__init__(dev)
        self.pasids: dict[int, IommuDomain] = {}  # the GCR3 table that the kernel makes
        self.attached: IommuDomain | None = None  # group.mutex; the domain, for who may change it

    def translate(self, iova: int, n: int, write: bool, pasid: int = 0) -> list[tuple[PinnedPages, int, int]]:
        domain = self.domain
        prot = IOMMU_WRITE if write else IOMMU_READ
        pieces: list[tuple[PinnedPages, int, int]] = []
        if isinstance(domain, amd_nested.NestedDomain):
            # The table of PASIDs is the guest's.
            pieces, fault = domain.walk_pasid(iova, n, prot, pasid)
        else:
            if pasid:
                domain = self.pasids.get(pasid)
            pieces, fault = ([], iova) if domain is None else domain.walk(iova, n, prot)
        if fault is None:
            return pieces
        domain_id = domain.id if isinstance(domain, ProtectionDomain) else 0
        amd_iommu().io_page_fault(self.dev, domain_id, fault, write, pasid)
        raise DmaFault(fault)

    def iotlb(self) -> list[IotlbLine]:
        return self.domain.first_stage.lines() if isinstance(self.domain, amd_nested.NestedDomain) else []


class ProtectionDomain(IommuDomain):
    """``struct protection_domain``: v1 is the host's own format, v2 is x86's."""

    def __init__(self, ops: AmdIommuOps, type: str, v2: bool, flags: int = 0) -> None:
        super().__init__(ops, type, PGSIZES_V2 if v2 else PGSIZES_V1, V2_END if v2 else V1_END)
        self.v2 = v2
        self.nest_parent = bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT)
        self.dirty_tracking = bool(flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        ops.domains += 1
        self.id = ops.domains


class AmdIommuOps(IommuOps):
    """``amd_iommu_ops``."""

    pgsize_bitmap = PGSIZES_V1
    isolated_msi = True

    def __init__(self) -> None:
        self.domains = 0  # ever made

    def capable(self, dev: Any, cap: str) -> bool:
        if cap == IOMMU_CAP_DIRTY_TRACKING:
            return amd_iommu().hd_support
        return cap in (IOMMU_CAP_CACHE_COHERENCY, IOMMU_CAP_DEFERRED_FLUSH)

    def probe_device(self, dev: Any) -> IommuDevice:
        return amd_iommu().iommu

    def dev_iommu_alloc(self, dev: Any) -> DevIommu:
        return kzalloc(IommuDevData, dev)

    def device_group(self, dev: Any) -> IommuGroup:
        return pci_device_group(dev)

    def get_resv_regions(self, dev: Any) -> list[IommuResvRegion]:
        kinds = ((MSI_RANGE, IOMMU_RESV_MSI), (HT_RANGE, IOMMU_RESV_RESERVED))
        return [IommuResvRegion(start, last + 1 - start, type) for (start, last), type in kinds]

    def hw_info(self, dev: Any, type: int) -> tuple[int, bytes]:
        if type not in (IOMMU_HW_INFO_TYPE_DEFAULT, IOMMU_HW_INFO_TYPE_AMD):
            raise Errno(EOPNOTSUPP)
        hardware = amd_iommu()
        return IOMMU_HW_INFO_TYPE_AMD, iommu_hw_info_amd(efr=hardware.efr, efr2=hardware.efr2).pack()

    def domain_alloc(self, dev: Any, type: str) -> IommuDomain:
        if type in (IOMMU_DOMAIN_BLOCKED, IOMMU_DOMAIN_IDENTITY):
            return IommuDomain(self, type)
        return ProtectionDomain(self, type, v2=False)

    def domain_alloc_paging_flags(self, dev: Any, flags: int, user_data: Any) -> IommuDomain:
        if user_data is not None:
            raise Errno(EOPNOTSUPP)
        hardware = amd_iommu()
        if flags == IOMMU_HWPT_ALLOC_PASID and hardware.pasid_supported:
            return ProtectionDomain(self, IOMMU_DOMAIN_UNMANAGED, v2=True)
        nest_or_dirty = IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING
        if flags & ~nest_or_dirty or (flags and not hardware.hd_support):
            raise Errno(EOPNOTSUPP)
        if flags & IOMMU_HWPT_ALLOC_NEST_PARENT and not hardware.nested_supported:
            raise Errno(EOPNOTSUPP)
        return ProtectionDomain(self, IOMMU_DOMAIN_UNMANAGED, v2=False, flags=flags)

    def attach_dev(self, domain: IommuDomain, dev: Any) -> None:
        dev_data: IommuDevData = dev.iommu
        amd_nested.flush(dev_data.attached)
        amd_nested.flush(domain)
        dev_data.domain = dev_data.attached = domain

    def set_dev_pasid(self, domain: IommuDomain, dev: Any, pasid: int, old: IommuDomain | None) -> None:
        """Errno EINVAL: *domain* has not the format that guests' tables have; EOPNOTSUPP no PASIDs."""
        if not amd_iommu().pasid_supported:
            raise Errno(EOPNOTSUPP)
        if not isinstance(domain, ProtectionDomain) or not domain.v2:
            raise Errno(EINVAL)
        dev.iommu.pasids[pasid] = domain

    def remove_dev_pasid(self, dev: Any, pasid: int, old: IommuDomain) -> None:
        dev.iommu.pasids.pop(pasid, None)

    def get_viommu_struct(self, dev: Any, type: int) -> type[Any]:
        if type == IOMMU_VIOMMU_TYPE_DEFAULT or not amd_iommu().nested_supported:
            raise Errno(EOPNOTSUPP)
        return amd_nested.AmdIommuViommu

    def viommu_init(self, viommu: Any, parent: IommuDomain | None, user_data: Any) -> None:
        amd_nested.amd_iommufd_viommu_init(viommu, parent)
