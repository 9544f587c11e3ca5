# SPDX-License-Identifier: GPL-2.0-only
"""
What IOMMU drivers and iommufd know of each other.

Mirrors ``include/linux/iommufd.h``, the user data of ``include/linux/iommu.h`` and
``drivers/iommu/iommufd/driver.c``. All differences from Linux:

* a driver states the class of its vIOMMU, and a vIOMMU that of its vDEVICEs, where
  Linux has sizes; the struct of the driver is a subclass of the core's;
* data of a type that the driver does not know is EOPNOTSUPP everywhere.
"""

from __future__ import annotations

from errno import E2BIG, EINVAL, ENOENT, EOPNOTSUPP
from typing import Any, ClassVar, TypeVar

from uvfio.linux.iommu.private import IommuDevice, IommuDomain
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.kernel.refcount import Refcount
from uvfio.linux.kernel.uaccess import copy_from_user, copy_struct_from_user
from uvfio.linux.kernel.xarray import Xarray
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.uapi.cstruct import CStruct

S = TypeVar("S", bound=CStruct)

# enum iommufd_object_type
IOMMUFD_OBJ_ANY = ""
IOMMUFD_OBJ_VIOMMU = "viommu"
IOMMUFD_OBJ_VDEVICE = "vdevice"


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
