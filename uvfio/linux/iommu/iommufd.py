# SPDX-License-Identifier: GPL-2.0-only
"""
What IOMMU drivers and iommufd know of each other.

Mirrors ``include/linux/iommufd.h``, the user data of ``include/linux/iommu.h`` and
``drivers/iommu/iommufd/driver.c``. All differences from Linux:

* a driver states the class of its vIOMMU, and a vIOMMU those of its vDEVICEs and HW
  queues, where Linux has sizes; the struct of the driver is a subclass of the core's;
* data of a type that the driver does not know is EOPNOTSUPP everywhere;
* memory that user space may map is an :class:`IommufdMmapMemory`, not a physical address.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import E2BIG, EINVAL, ENOENT, EOPNOTSUPP
from typing import Any, ClassVar, TypeVar

from uvfio.linux.iommu.private import IommuDevice, IommuDomain
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.mutex import Spinlock
from uvfio.linux.kernel.refcount import Refcount
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.kernel.uaccess import copy_from_user, copy_struct_from_user, copy_to_user
from uvfio.linux.kernel.wait import WaitQueueHead
from uvfio.linux.kernel.xarray import Xarray
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.uapi.cstruct import CStruct

S = TypeVar("S", bound=CStruct)

# enum iommufd_object_type
IOMMUFD_OBJ_ANY = ""
IOMMUFD_OBJ_VIOMMU = "viommu"
IOMMUFD_OBJ_VDEVICE = "vdevice"
IOMMUFD_OBJ_VEVENTQ = "veventq"
IOMMUFD_OBJ_HW_QUEUE = "hw queue"

PAGE_SIZE = 4096
INT_MAX = (1 << 31) - 1


@kstruct()
class IommufdObject:
    """
    ``struct iommufd_object``. *users* counts long-term references, *wait_cnt* those
    of calls in progress; each has a bias of one for as long as the id is valid.
    """

    type = IOMMUFD_OBJ_ANY

    def __init__(self) -> None:
        self.users = Refcount(f"{self.type}.users")
        self.wait_cnt = Refcount(f"{self.type}.wait_cnt")
        self.id = 0


@kstruct("idev", "virt_id")
class IommufdVdevice(IommufdObject):
    """``struct iommufd_vdevice``: a device as the guest behind *viommu* knows it."""

    type = IOMMUFD_OBJ_VDEVICE

    def __init__(self, viommu: IommufdViommu) -> None:
        super().__init__()
        self.viommu = viommu
        self.idev: Any = None  # igroup.lock; with a reference of a call in progress
        self.virt_id = 0

    def destroy(self) -> None:
        """It goes away, maybe because ``vdevice_init`` has refused it."""


@kstruct()
class IommufdHwQueue(IommufdObject):
    """``struct iommufd_hw_queue``: a queue in guest memory that the hardware reads by itself."""

    type = IOMMUFD_OBJ_HW_QUEUE

    def __init__(self) -> None:
        super().__init__()
        self.viommu: Any = None
        self.access: Any = None  # keeps the memory pinned
        self.queue_type = 0
        self.base_addr = 0  # in the IOVA space of the vIOMMU's parent
        self.length = 0
        self.initialised = False

    def destroy(self) -> None:
        """It goes away, after it was initialised; the hardware must let go of its memory."""


class IommufdVevent:
    """``struct iommufd_vevent``: an event that a guest has not read yet."""

    __slots__ = ("data", "sequence")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sequence = 0


class IommufdEventq(IommufdObject):
    """``struct iommufd_eventq``: what a file lets user space read."""

    def __init__(self, ictx: Any) -> None:
        super().__init__()
        self.ictx = ictx
        self.filep: Any = None
        self.lock = Spinlock(f"iommufd_{self.type}.lock")
        self.deliver: list[Any] = []  # lock
        self.wait_queue = WaitQueueHead("iommufd_eventq.wait_queue")


@kstruct()
class IommufdVeventq(IommufdEventq):
    """``struct iommufd_veventq``."""

    type = IOMMUFD_OBJ_VEVENTQ

    def __init__(self, viommu: IommufdViommu, queue_type: int, depth: int) -> None:
        super().__init__(viommu.ictx)
        self.viommu = viommu
        self.queue_type = queue_type
        self.depth = depth
        self.num_events = 0  # lock; those in deliver, without the header of lost ones
        self.sequence = 0  # lock
        self.lost_events_header = IommufdVevent(b"")  # in deliver when the last events were lost


class IommufdMmapMemory:
    """Memory of a driver that user space may map: what one writes to *data* the other sees."""

    def __init__(self, length: int) -> None:
        self.data = memoryview(bytearray(length))  # the live supervisor puts another one here


class IommufdMmap:
    """``struct iommufd_mmap``: a region of the iommufd's file; *owner* lives while it is mapped."""

    def __init__(self, owner: IommufdObject, memory: IommufdMmapMemory, offset: int, length: int) -> None:
        self.owner = owner
        self.memory = memory
        self.offset = offset
        self.length = length


@kstruct()
class IommufdViommu(IommufdObject):
    """
    ``struct iommufd_viommu``: a slice of a physical IOMMU, as a guest has it. The
    methods are ``struct iommufd_viommu_ops``; what a driver does not define is refused.
    """

    type = IOMMUFD_OBJ_VIOMMU
    vdevice: ClassVar[Any] = IommufdVdevice  # vdevice_size

    def __init__(self, ictx: Any, hwpt: Any, iommu_dev: IommuDevice) -> None:
        super().__init__()
        self.ictx = ictx
        self.hwpt = hwpt  # what the guest believes to be memory
        self.iommu_dev = iommu_dev
        self.vdevs = Xarray("iommufd_viommu.vdevs")  # by virt_id
        self.veventqs_rwsem = RwSemaphore("iommufd_viommu.veventqs_rwsem")
        self.veventqs: list[IommufdVeventq] = []  # veventqs_rwsem

    def destroy(self) -> None:
        """It goes away, and nothing refers to it."""

    def alloc_domain_nested(self, flags: int, user_data: IommuUserData) -> IommuDomain:
        """A domain whose first stage the guest made."""
        raise Errno(EOPNOTSUPP)

    def cache_invalidate(self, array: IommuUserDataArray) -> None:
        """The guest changed what the hardware may have cached; counts in ``entry_done``."""
        raise Errno(EOPNOTSUPP)

    def vdevice_init(self, vdev: Any, dev: Any) -> None:
        """The guest gets *dev*, which nobody can find by its virt_id yet."""

    def get_hw_queue_struct(self, type: int) -> Callable[[], IommufdHwQueue]:
        """The driver's HW queue (``get_hw_queue_size``). Errno EOPNOTSUPP if it has none of *type*."""
        raise Errno(EOPNOTSUPP)

    def hw_queue_init_phys(self, hw_queue: Any, index: int, base_addr_pa: int) -> None:
        """The hardware may read *hw_queue*, as number *index*, at the physical *base_addr_pa*. Errno EINVAL, ..."""
        raise Errno(EOPNOTSUPP)


class IommuUserData:
    """``struct iommu_user_data``."""

    __slots__ = ("len", "type", "uptr")

    def __init__(self, type: int, uptr: int, len: int) -> None:
        self.type = type
        self.uptr = uptr
        self.len = len


class IommuUserDataArray:
    """``struct iommu_user_data_array``, and how many of its entries are done."""

    __slots__ = ("entry_done", "entry_len", "entry_num", "type", "uptr")

    def __init__(self, type: int, uptr: int, entry_len: int, entry_num: int) -> None:
        self.type = type
        self.uptr = uptr
        self.entry_len = entry_len
        self.entry_num = entry_num
        self.entry_done = 0


def iommu_copy_struct_from_user(struct: type[S], user_data: IommuUserData, type: int, min_len: int) -> S:
    """Errno EOPNOTSUPP another type, EINVAL too short or too long, EFAULT."""
    if user_data.type != type:
        raise Errno(EOPNOTSUPP)
    if not min_len <= user_data.len <= struct.size_of:
        raise Errno(EINVAL)
    return copy_struct_from_user(struct, user_data.uptr, user_data.len)


def iommu_copy_struct_to_user(user_data: IommuUserData, src: CStruct, type: int, min_len: int) -> None:
    """Give back *src*, as much of it as the caller knows. Errno EOPNOTSUPP, EINVAL, EFAULT."""
    if user_data.type != type:
        raise Errno(EOPNOTSUPP)
    if user_data.len < min_len:
        raise Errno(EINVAL)
    copy_to_user(user_data.uptr, src.pack()[: user_data.len])


def iommu_copy_struct_from_user_array(
    struct: type[S], array: IommuUserDataArray, type: int, index: int, min_len: int
) -> S:
    """Entry *index*. Errno EINVAL another type, no such entry, too short or too long; EFAULT."""
    length = array.entry_len
    if array.type != type or index >= array.entry_num or not min_len <= length <= struct.size_of:
        raise Errno(EINVAL)
    return copy_struct_from_user(struct, array.uptr + index * length, length)


def iommu_copy_struct_from_full_user_array(struct: type[S], array: IommuUserDataArray, type: int) -> list[S]:
    """Errno EINVAL another type, EFAULT, E2BIG an entry has more than is known."""
    if array.type != type:
        raise Errno(EINVAL)
    size, length = struct.size_of, array.entry_len
    data = copy_from_user(array.uptr, length * array.entry_num) if array.entry_num else b""
    entries = [data[at : at + length] for at in range(0, len(data), length)] if data else []
    if length > size and any(any(entry[size:]) for entry in entries):
        raise Errno(E2BIG)
    return [struct.unpack(entry) for entry in entries]


def iommufd_viommu_find_dev(viommu: IommufdViommu, vdev_id: int) -> Any:
    """The device that the guest calls *vdev_id*, None if there is none. It stays while the lock is held."""
    lockdep_assert_held(viommu.vdevs.xa_lock)
    vdev: IommufdVdevice | None = viommu.vdevs.load(vdev_id)
    return None if vdev is None else vdev.idev.dev


def iommufd_viommu_get_vdev_id(viommu: IommufdViommu, dev: Any) -> int:
    """What the guest calls *dev*. Errno ENOENT if it does not know it."""
    with viommu.vdevs.xa_lock:
        for vdev_id, vdev in viommu.vdevs.items():
            if vdev.idev.dev is dev:
                return vdev_id
    raise Errno(ENOENT)


# Events


def iommufd_viommu_find_veventq(viommu: IommufdViommu, type: int) -> IommufdVeventq | None:
    lockdep_assert_held(viommu.veventqs_rwsem)
    return next((each for each in viommu.veventqs if each.queue_type == type), None)


def iommufd_viommu_report_event(viommu: IommufdViommu, type: int, data: bytes) -> None:
    """
    Tell the guest of an event. Errno EOPNOTSUPP: nobody listens to events of *type*. One
    that finds the queue full is lost, and the guest is told that.
    """
    if WARN_ON(not data, "an event says nothing"):
        raise Errno(EINVAL)
    with viommu.veventqs_rwsem.read():
        veventq = iommufd_viommu_find_veventq(viommu, type)
        if veventq is None:
            raise Errno(EOPNOTSUPP)
        with veventq.lock:
            if veventq.num_events == veventq.depth:
                vevent = veventq.lost_events_header
            else:
                vevent = IommufdVevent(data)
                veventq.num_events += 1
            _iommufd_vevent_handler(veventq, vevent)
        veventq.filep.poll_changed()


def _iommufd_vevent_handler(veventq: IommufdVeventq, vevent: IommufdVevent) -> None:
    """Queue *vevent*; the header of lost events is only ever the last, and only while it is news."""
    lockdep_assert_held(veventq.lock)
    deliver = veventq.deliver
    if deliver and deliver[-1] is veventq.lost_events_header:
        deliver.pop()
    deliver.append(vevent)
    vevent.sequence = veventq.sequence
    veventq.sequence = (veventq.sequence + 1) & INT_MAX
    veventq.wait_queue.wake_up()


# HW queues


def iommufd_hw_queue_depend(hw_queue: IommufdHwQueue, depended: IommufdHwQueue) -> None:
    """*depended* cannot be destroyed before *hw_queue*. Errno EINVAL."""
    if WARN_ON(hw_queue is depended or hw_queue.viommu is not depended.viommu, "an odd dependency of HW queues"):
        raise Errno(EINVAL)
    depended.users.inc()


def iommufd_hw_queue_undepend(hw_queue: IommufdHwQueue, depended: IommufdHwQueue) -> None:
    if not WARN_ON(hw_queue is depended or hw_queue.viommu is not depended.viommu, "an odd dependency of HW queues"):
        depended.users.dec()


# Memory for user space


def iommufd_viommu_alloc_mmap(viommu: IommufdViommu, memory: IommufdMmapMemory, length: int) -> int:
    """Let user space map *memory*; at which offset of the iommufd's file."""
    return iommufd_alloc_mmap(viommu.ictx, viommu, memory, length)


def iommufd_viommu_destroy_mmap(viommu: IommufdViommu, offset: int) -> None:
    iommufd_destroy_mmap(viommu.ictx, viommu, offset)


def iommufd_alloc_mmap(ictx: Any, owner: IommufdObject, memory: IommufdMmapMemory, length: int) -> int:
    """``_iommufd_alloc_mmap()``: the lowest offset that is free, never 0."""
    if WARN_ON(not length or length % PAGE_SIZE, "a region to be mapped is not made of pages"):
        raise Errno(EINVAL)
    with ictx.mt_lock:
        offset = PAGE_SIZE
        for other in sorted(ictx.mt_mmap.values(), key=lambda each: int(each.offset)):
            if offset + length <= other.offset:
                break
            offset = other.offset + other.length
        ictx.mt_mmap[offset] = IommufdMmap(owner, memory, offset, length)
    return offset


def iommufd_destroy_mmap(ictx: Any, owner: IommufdObject, offset: int) -> None:
    """``_iommufd_destroy_mmap()``: *owner* goes, so nobody has it mapped."""
    with ictx.mt_lock:
        immap = ictx.mt_mmap.pop(offset, None)
    WARN_ON(immap is None or immap.owner is not owner, f"no region of that owner is at {offset:#x}")
