# SPDX-License-Identifier: GPL-2.0-only
"""
Structs of iommufd. Mirrors ``drivers/iommu/iommufd/iommufd_private.h`` and
``io_pagetable.h``; those that IOMMU drivers know too are in ``iommu/iommufd.py``.

Lock order: ``iommufd_group.lock``, ``iommufd_ioas.mutex``, ``domains_rwsem``,
``iova_rwsem``, ``iopt_pages.mutex``, ``dma_buf.resv``; and ``iommufd_group.lock``,
``iommufd_fault.mutex``, then what answers faults in ``iommu/io_pgfault.py``. Leaves are
the ``xa_lock`` of ``objects``, those of each ``iommufd_viommu.vdevs``, ``mt_lock`` and
the ``lock`` of each event queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvfio.linux.iommu.iommufd import IOMMUFD_OBJ_ANY as IOMMUFD_OBJ_ANY
from uvfio.linux.iommu.iommufd import IOMMUFD_OBJ_HW_QUEUE as IOMMUFD_OBJ_HW_QUEUE
from uvfio.linux.iommu.iommufd import IOMMUFD_OBJ_VDEVICE as IOMMUFD_OBJ_VDEVICE
from uvfio.linux.iommu.iommufd import IOMMUFD_OBJ_VEVENTQ as IOMMUFD_OBJ_VEVENTQ
from uvfio.linux.iommu.iommufd import IOMMUFD_OBJ_VIOMMU as IOMMUFD_OBJ_VIOMMU
from uvfio.linux.iommu.iommufd import IommufdEventq as IommufdEventq
from uvfio.linux.iommu.iommufd import IommufdHwQueue as IommufdHwQueue
from uvfio.linux.iommu.iommufd import IommufdMmap as IommufdMmap
from uvfio.linux.iommu.iommufd import IommufdObject as IommufdObject
from uvfio.linux.iommu.iommufd import IommufdVdevice as IommufdVdevice
from uvfio.linux.iommu.iommufd import IommufdVeventq as IommufdVeventq
from uvfio.linux.iommu.iommufd import IommufdViommu as IommufdViommu
from uvfio.linux.iommu.private import IommuAttachHandle, IommuDomain, IommuGroup
from uvfio.linux.kernel.fs import File
from uvfio.linux.kernel.interval_tree import IntervalTree
from uvfio.linux.kernel.mutex import Mutex, Spinlock
from uvfio.linux.kernel.process import MemoryFile
from uvfio.linux.kernel.refcount import Kref, Refcount
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.kernel.uaccess import copy_to_user
from uvfio.linux.kernel.wait import WaitQueueHead
from uvfio.linux.kernel.xarray import Xarray
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import running

PAGE_SIZE = 4096
PAGE_MASK = PAGE_SIZE - 1
ULONG_MAX = (1 << 64) - 1

# enum iommufd_object_type
IOMMUFD_OBJ_DEVICE = "device"
IOMMUFD_OBJ_HWPT_PAGING = "hwpt"
IOMMUFD_OBJ_HWPT_NESTED = "nested hwpt"
IOMMUFD_OBJ_IOAS = "ioas"
IOMMUFD_OBJ_ACCESS = "access"
IOMMUFD_OBJ_FAULT = "fault"
IOMMUFD_OBJ_SELFTEST = "selftest"

IOPT_PAGES_ACCOUNT_USER = 0
IOPT_PAGES_ACCOUNT_MM = 1
IOPT_PAGES_ACCOUNT_NONE = 2  # who maps has CAP_IPC_LOCK


@kstruct("vfio_ioas", "account_mode")
class IommufdCtx:
    """``struct iommufd_ctx``: what one open file of /dev/iommu holds."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.objects = Xarray("iommufd_ctx.objects", first=1)
        self.groups: dict[IommuGroup, IommufdGroup] = {}  # objects.xa_lock
        self.destroy_wait = WaitQueueHead("iommufd_ctx.destroy_wait")
        self.account_mode = IOPT_PAGES_ACCOUNT_USER
        self.vfio_ioas: IommufdIoas | None = None  # objects.xa_lock
        self.no_iommu_mode = False  # objects.xa_lock; a no-IOMMU group uses it
        self.mt_lock = Spinlock("iommufd_ctx.mt_mmap.ma_lock")
        self.mt_mmap: dict[int, IommufdMmap] = {}  # mt_lock; by their offset in the file

    def __repr__(self) -> str:
        return "<iommufd_ctx>"


class IommufdUcmd:
    """``struct iommufd_ucmd``: one call, its struct unpacked."""

    __slots__ = ("cmd", "ictx", "ubuffer", "user_size")

    def __init__(self, ictx: IommufdCtx, ubuffer: int, user_size: int, cmd: Any) -> None:
        self.ictx = ictx
        self.ubuffer = ubuffer
        self.user_size = user_size
        self.cmd = cmd

    def respond(self) -> None:
        """Copy the struct back, as much of it as the caller knows. Errno EFAULT."""
        data = self.cmd.pack()
        copy_to_user(self.ubuffer, data if self.user_size >= len(data) else data[: self.user_size])

    def respond_u64(self, field: str, value: int) -> None:
        """The same when at most *field* has changed, which every caller must know."""
        if value != getattr(self.cmd, field) or running().process.mm.rewrites:
            copy_to_user(self.ubuffer + self.cmd.offsets[field], value.to_bytes(8, "little"))


@kstruct()
class IoptPages:
    """
    ``struct iopt_pages``: memory that areas map, pinned while a domain or an access needs
    it. It is page aligned; an area starts at a byte offset in it.
    """

    file: MemoryFile | None = None  # whose memory it is, from the byte uptr on
    dmabuf: Any = None
    invalidate: Any = None  # what the dma-buf calls when it is revoked
    dmabuf_areas: dict[IoptArea, list[IommuDomain]]  # dma_buf.resv
    runs: Any = ()  # mutex; what is pinned (pages.PinRun), ascending
    npinned = 0  # mutex; how many pages that is

    def __init__(self, process: Any, uptr: int, writable: bool, account_mode: int) -> None:
        self.refcount = Refcount("iopt_pages")
        self.mutex = Mutex("iopt_pages.mutex")
        self.process = process
        self.mm = process.mm
        self.uptr = uptr & ~PAGE_MASK
        self.writable = writable
        self.account_mode = account_mode


@kstruct("pages", "prevent_access")
class IoptArea:
    """
    ``struct iopt_area``: a range of IOVA and the memory behind it. Without *pages*
    it is being added or removed and only keeps the range from being used.
    """

    def __init__(self, start: int, length: int, byte_offset: int, iommu_prot: int) -> None:
        self.start = start
        self.last = start + length - 1
        self.byte_offset = byte_offset  # where it starts in the pages
        self.iommu_prot = iommu_prot
        self.pages: IoptPages | None = None  # iova_rwsem
        self.prevent_access = False  # iova_rwsem
        self.filled = False  # domains_rwsem and pages.mutex
        self.num_accesses = 0  # iova_rwsem for reading and pages.mutex, or iova_rwsem
        self.num_locks = 0  # the same; while not 0 it cannot be unmapped


class IoptReserved:
    """``struct iopt_reserved``: *owner* (a device or a domain) keeps mappings out."""

    def __init__(self, start: int, last: int, owner: Any) -> None:
        self.start = start
        self.last = last
        self.owner = owner


class IoPagetable:
    """``struct io_pagetable``."""

    def __init__(self) -> None:
        self.domains_rwsem = RwSemaphore("io_pagetable.domains_rwsem")
        self.domains: list[IommuDomain] = []  # domains_rwsem
        self.iova_rwsem = RwSemaphore("io_pagetable.iova_rwsem")
        self.area_itree: IntervalTree[IoptArea] = IntervalTree()  # iova_rwsem
        self.allowed: list[tuple[int, int]] = []  # iova_rwsem; ascending, disjoint
        # From PAGE_SIZE up to full_below all is mapped but for holes; each begins at an entry of
        # holes, a heap, in which there may be addresses that are mapped again.
        self.full_below = PAGE_SIZE  # iova_rwsem
        self.holes: list[int] = []  # iova_rwsem
        self.reserved: list[IoptReserved] = []  # iova_rwsem; may overlap
        self.access_list = Xarray("io_pagetable.access_list")  # of IommufdAccess
        self.disable_large_pages = False  # domains_rwsem and iova_rwsem
        self.iova_alignment = 1  # iova_rwsem


@kstruct()
class IommufdIoas(IommufdObject):
    """``struct iommufd_ioas``."""

    type = IOMMUFD_OBJ_IOAS

    def __init__(self) -> None:
        super().__init__()
        self.iopt = IoPagetable()
        self.mutex = Mutex("iommufd_ioas.mutex")
        self.hwpt_list: list[IommufdHwptPaging] = []  # mutex


@kstruct()
class IommufdFault(IommufdEventq):
    """``struct iommufd_fault``: page faults of devices, for user space to resolve."""

    type = IOMMUFD_OBJ_FAULT

    def __init__(self, ictx: IommufdCtx) -> None:
        super().__init__(ictx)
        self.mutex = Mutex("iommufd_fault.mutex")
        self.response = Xarray("iommufd_fault.response", first=1)  # mutex; what user space has read, by cookie


@kstruct()
class IommufdHwptPaging(IommufdObject):
    """``struct iommufd_hwpt_paging``: a domain that shows an IOAS."""

    type = IOMMUFD_OBJ_HWPT_PAGING

    def __init__(self, ioas: IommufdIoas) -> None:
        super().__init__()
        self.ioas = ioas
        self.domain: IommuDomain | None = None
        self.fault: IommufdFault | None = None
        self.auto_domain = False
        self.enforce_cache_coherency = False
        self.nest_parent = False
        self.pasid_compat = False
        self.in_table = False  # the domain is in ioas.iopt


@kstruct()
class IommufdHwptNested(IommufdObject):
    """``struct iommufd_hwpt_nested``: a domain whose first stage a guest has made."""

    type = IOMMUFD_OBJ_HWPT_NESTED
    auto_domain = False

    def __init__(self, parent: IommufdHwptPaging, viommu: IommufdViommu | None) -> None:
        super().__init__()
        self.parent = parent
        self.viommu = viommu  # None: it stands on the parent itself
        self.domain: IommuDomain | None = None
        self.fault: IommufdFault | None = None
        self.pasid_compat = False

    @property
    def ioas(self) -> IommufdIoas:
        return self.parent.ioas


IommufdHwPagetable = IommufdHwptPaging | IommufdHwptNested


class IommufdAttach:
    """``struct iommufd_attach``: what a PASID of a group goes through."""

    def __init__(self, hwpt: IommufdHwPagetable) -> None:
        self.hwpt = hwpt
        self.device_array: list[IommufdDevice] = []  # those attached to it


@kstruct("domain", "idev")
class IommufdAttachHandle(IommuAttachHandle):
    """``struct iommufd_attach_handle``."""

    def __init__(self, idev: IommufdDevice) -> None:
        super().__init__()
        self.idev = idev


class IommufdGroup:
    """``struct iommufd_group``: what the devices of one IOMMU group have in common."""

    def __init__(self, ictx: IommufdCtx, group: IommuGroup) -> None:
        self.kref = Kref("iommufd_group")
        self.lock = Mutex("iommufd_group.lock")
        self.ictx = ictx
        self.group = group
        self.pasid_attach: dict[int, IommufdAttach] = {}  # lock; by PASID, IOMMU_NO_PASID too


@kstruct("vdev", "destroying")
class IommufdDevice(IommufdObject):
    """``struct iommufd_device``: a device bound to the context; the kernel's object."""

    type = IOMMUFD_OBJ_DEVICE

    def __init__(self, ictx: IommufdCtx, igroup: IommufdGroup, dev: Any) -> None:
        super().__init__()
        self.ictx = ictx
        self.igroup = igroup
        self.dev = dev
        self.vdev: IommufdVdevice | None = None  # igroup.lock
        self.destroying = False  # igroup.lock
        self.noiommu = False


@kstruct("ioas", "ioas_unpin")
class IommufdAccess(IommufdObject):
    """``struct iommufd_access``: a driver that reaches the memory of an IOAS by itself."""

    type = IOMMUFD_OBJ_ACCESS

    def __init__(self, ictx: IommufdCtx, unmap: Callable[[int, int], None] | None) -> None:
        super().__init__()
        self.ictx = ictx
        self.unmap = unmap  # None: it never pins, or is internal
        self.internal = False  # iommufd's own: what it pins cannot be unmapped
        self.ioas_lock = Mutex("iommufd_access.ioas_lock")
        self.ioas: IommufdIoas | None = None  # ioas_lock
        self.ioas_unpin: IommufdIoas | None = None  # ioas_lock; what is pinned is there
        self.iopt_access_list_id = 0  # ioas_lock; in the access_list of the IOAS attached last
        self.iova_alignment = 1


@kstruct()
class SelftestObj(IommufdObject):
    """``struct selftest_obj``: a mock device, bound and attached."""

    type = IOMMUFD_OBJ_SELFTEST
    mock_dev: Any = None
    idev: Any = None
