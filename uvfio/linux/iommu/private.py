# SPDX-License-Identifier: GPL-2.0-only
"""
Structs of the IOMMU core. Mirrors ``include/linux/iommu.h`` and the head of
``drivers/iommu/iommu.c``.

All differences from Linux:

* page tables are ranges of pinned memory (``io_pgtable.py``);
* a driver that can do PASIDs takes one away with ``remove_dev_pasid``, instead of
  putting its blocking domain there;
* no SVA, no MSI cookies.

Lock order: ``iommu_probe_device_lock``, then ``iommu_group.mutex``, then what
``io_pgfault.py`` has.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import ENODEV, EOPNOTSUPP
from typing import Any, NamedTuple

from uvfio.linux.iommu.io_pgtable import IOMMU_CACHE as IOMMU_CACHE
from uvfio.linux.iommu.io_pgtable import IOMMU_READ as IOMMU_READ
from uvfio.linux.iommu.io_pgtable import IOMMU_WRITE as IOMMU_WRITE
from uvfio.linux.iommu.io_pgtable import IoPgtable
from uvfio.linux.kernel.kernfs import KernfsNode
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.process import PinnedPages
from uvfio.linux.kernel.refcount import Kref
from uvfio.linux.kernel.xarray import Ida, Xarray
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import per_machine

IOMMU_DOMAIN_BLOCKED = "blocked"
IOMMU_DOMAIN_IDENTITY = "identity"
IOMMU_DOMAIN_UNMANAGED = "unmanaged"
IOMMU_DOMAIN_DMA = "DMA"
IOMMU_DOMAIN_DMA_FQ = "DMA-FQ"
IOMMU_DOMAIN_NESTED = "nested"

IOMMU_NO_PASID = 0

# enum iommu_cap
IOMMU_CAP_ENFORCE_CACHE_COHERENCY = "enforced cache coherency"
IOMMU_CAP_CACHE_COHERENCY = "cache coherency"
IOMMU_CAP_DEFERRED_FLUSH = "deferred flush"
IOMMU_CAP_DIRTY_TRACKING = "dirty tracking"

# enum iommu_resv_type, by what sysfs calls them; those that something here has or looks for
IOMMU_RESV_DIRECT_RELAXABLE = "direct-relaxable"
IOMMU_RESV_RESERVED = "reserved"
IOMMU_RESV_MSI = "msi"


class IommuResvRegion:
    """``struct iommu_resv_region``."""

    def __init__(self, start: int, length: int, type: str) -> None:
        self.start = start
        self.length = length
        self.type = type

    @property
    def last(self) -> int:
        return self.start + self.length - 1


class IommuDomain(IoPgtable):
    """``struct iommu_domain`` with its page table. Freed by its owner, no reference count."""

    def __init__(self, ops: IommuOps, type: str, pgsize_bitmap: int = 0, aperture_end: int = 0) -> None:
        super().__init__(pgsize_bitmap, aperture_end)
        self.ops = ops
        self.type = type
        self.aperture_start = 0
        self.force_aperture = True
        # Takes over an IopfGroup, or raises Errno; None: page faults of devices are not wanted.
        self.iopf_handler: Callable[[Any], None] | None = None
        self.iommufd_hwpt: Any = None  # whose it is, with IOMMU_COOKIE_IOMMUFD

    def __repr__(self) -> str:
        return f"<{self.type} domain>"

    def attach_dev(self, dev: Any) -> None:
        """Let *dev* use this domain, instead of whichever it used."""
        self.ops.attach_dev(self, dev)

    def enforce_cache_coherency(self) -> bool:
        return self.ops.enforce_cache_coherency(self)

    def cache_invalidate_user(self, array: Any) -> None:
        """User space, whose table a nested domain shows, has changed it; counts in ``array.entry_done``."""
        raise Errno(EOPNOTSUPP)


class IommuOps:
    """``struct iommu_ops``: what an IOMMU driver can do. Not implemented: refused."""

    pgsize_bitmap = 0
    isolated_msi = False
    user_pasid_table = False  # the table of PASIDs is in nested domains, and so are their faults
    noiommu = False  # its domains translate nothing: IOMMU_IOAS_NOIOMMU_GET_PA tells addresses
    domains = 0  # how many with a page table exist
    release_domain: IommuDomain | None = None  # static: what a device is on when it goes

    def capable(self, dev: Any, cap: str) -> bool:
        return False

    def probe_device(self, dev: Any) -> IommuDevice:
        """The IOMMU in front of *dev*. Errno ENODEV if there is none."""
        raise Errno(ENODEV)

    def dev_iommu_alloc(self, dev: Any) -> DevIommu:
        """What the IOMMU keeps for *dev*, which it serves."""
        raise NotImplementedError

    def release_device(self, dev: Any) -> None:
        """*dev* goes away; it is not attached to anything any more."""

    def device_group(self, dev: Any) -> IommuGroup:
        """The group that *dev* belongs to, referenced."""
        raise NotImplementedError

    def get_resv_regions(self, dev: Any) -> list[IommuResvRegion]:
        return []

    def hw_info(self, dev: Any, type: int) -> tuple[int, bytes]:
        """(type, data) for IOMMU_GET_HW_INFO."""
        return 0, b""

    def domain_alloc(self, dev: Any, type: str) -> IommuDomain:
        """A domain that the core needs: default or blocking."""
        raise NotImplementedError

    def domain_alloc_paging_flags(self, dev: Any, flags: int, user_data: Any) -> IommuDomain:
        raise Errno(EOPNOTSUPP)

    def domain_alloc_nested(self, dev: Any, parent: IommuDomain, flags: int, user_data: Any) -> IommuDomain:
        """A domain whose first stage user space makes, and whose second is *parent*."""
        raise Errno(EOPNOTSUPP)

    def get_viommu_struct(self, dev: Any, type: int) -> type[Any]:
        """The driver's vIOMMU (``get_viommu_size``). Errno EOPNOTSUPP if it has none of *type*."""
        raise Errno(EOPNOTSUPP)

    def viommu_init(self, viommu: Any, parent: IommuDomain | None, user_data: Any) -> None:
        """*viommu* is to stand on *parent*. Errno EINVAL."""
        raise NotImplementedError

    def domain_free(self, domain: IommuDomain) -> None:
        """Nobody uses *domain* any more."""

    def attach_dev(self, domain: IommuDomain, dev: Any) -> None:
        raise NotImplementedError

    def set_dev_pasid(self, domain: IommuDomain, dev: Any, pasid: int, old: IommuDomain | None) -> None:
        """Let what *dev* does with *pasid* go through *domain*, instead of *old*. May do nothing but raise Errno."""
        raise Errno(EOPNOTSUPP)

    def remove_dev_pasid(self, dev: Any, pasid: int, old: IommuDomain) -> None:
        """Block what *dev* does with *pasid*; must work."""
        raise Errno(EOPNOTSUPP)

    def page_response(self, dev: Any, fault: Any, response: Any) -> None:
        """Tell the hardware the answer to the last *fault* (IopfFault) of a group (IommuPageResponse)."""

    def enforce_cache_coherency(self, domain: IommuDomain) -> bool:
        return False


def implements(ops: IommuOps, name: str) -> bool:
    """Does the driver have the operation *name*, which Linux sees at its pointer?"""
    return getattr(type(ops), name) is not getattr(IommuOps, name)


class IommuDevice:
    """``struct iommu_device``: one IOMMU, with its directory in sysfs."""

    def __init__(self, name: str, ops: IommuOps) -> None:
        self.name = name
        self.ops = ops
        self.bus: Any = None  # that its devices are on
        self.max_pasids = 0
        self.kobj: KernfsNode | None = None
        self.devices_kobj: KernfsNode | None = None

    def __repr__(self) -> str:
        return self.name


class IommuAttachHandle:
    """``struct iommu_attach_handle``: that *domain* is attached. Whoever attached it makes a subclass."""

    def __init__(self) -> None:
        self.domain: IommuDomain | None = None


class IotlbLine(NamedTuple):
    """A translation that an IOMMU has cached, for who looks: a page of *tag*, and of the guest's memory."""

    tag: int  # PASID, or ASID of an SMMU
    page: int
    to: int
    writable: bool


@kstruct("domain", "fault_param")
class DevIommu:
    """``struct dev_iommu``, and what the hardware knows of the device."""

    def __init__(self, dev: Any) -> None:
        self.dev = dev
        self.iommu_dev: IommuDevice | None = None
        self.domain: IommuDomain | None = None  # what its accesses go through now
        self.max_pasids = 0  # PASIDs it can use; 0: it has none, and nobody minds what is attached to them
        self.ats_supported = False
        self.lock = Mutex("dev_iommu.lock")
        self.fault_param: Any = None  # lock

    def translate(self, iova: int, n: int, write: bool) -> list[tuple[PinnedPages, int, int]]:
        """
        The hardware side: the pieces (pages, offset, length) behind *n* bytes at
        *iova*. DmaFault when the device may not do that; the IOMMU has noted it then.
        """
        raise NotImplementedError

    def page_request(self, addr: int, write: bool, pasid: int, group: int, last: bool) -> None:
        """The hardware side: the device asks for a page. An IOMMU that has no page requests drops it."""

    def iotlb(self) -> list[IotlbLine]:
        """What the device can use of what is cached; ascending. An IOMMU that caches nothing has nothing."""
        return []


class GroupDevice:
    """``struct group_device``: a device in the list of its group."""

    def __init__(self, dev: Any, name: str) -> None:
        self.dev = dev
        self.name = name


@kstruct("domain", "default_domain", "owner", "owner_cnt")
class IommuGroup:
    """``struct iommu_group``. The comment says which lock a field needs."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.kref = Kref(f"iommu_group {id}")
        self.mutex = Mutex("iommu_group.mutex")
        self.kobj: KernfsNode | None = None
        self.devices_kobj: KernfsNode | None = None
        self.devices: list[GroupDevice] = []  # mutex
        self.default_domain: IommuDomain | None = None  # mutex
        self.blocking_domain: IommuDomain | None = None  # mutex
        self.domain: IommuDomain | None = None  # mutex
        # By PASID, IOMMU_NO_PASID too: the handle, or the domain where there is none.
        self.pasid_array = Xarray("iommu_group.pasid_array")  # written under mutex
        self.owner: Any = None  # mutex
        self.owner_cnt = 0  # mutex

    def __repr__(self) -> str:
        return f"<iommu_group {self.id}>"


class IommuCore:
    """Statics of ``iommu.c``."""

    def __init__(self) -> None:
        self.group_ida = Ida("iommu_group_ida")
        self.iommu_probe_device_lock = Mutex("iommu_probe_device_lock")
        self.iommu_device_list: list[IommuDevice] = []
        self.def_domain_type = IOMMU_DOMAIN_DMA


iommu_core = per_machine(IommuCore)
