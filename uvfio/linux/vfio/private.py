# SPDX-License-Identifier: GPL-2.0-only
"""
The structs and statics of VFIO. Mirrors ``drivers/vfio/vfio.h`` and ``include/linux/vfio.h``.

Lock order: ``vfio.group_lock``, ``group.group_lock``, ``container.group_lock``, type1's
``iommu.lock``, ``iommu_group.mutex``; and ``group.group_lock``, ``dev_set.lock``;
``group.device_lock`` and both ``kvm_ref_lock`` are leaves. ``kvm->lock`` comes before
``kvm_ref_lock`` and, in drivers, after ``dev_set.lock``: it must not be held when a group's
or a device set's lock is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENOTTY
from typing import Any, cast

from uvfio.linux.base.core import Device
from uvfio.linux.kernel.chrdev import Cdev
from uvfio.linux.kernel.fs import File, Vma
from uvfio.linux.kernel.mutex import Mutex, Spinlock
from uvfio.linux.kernel.refcount import Kref, Refcount
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.kernel.wait import Completion
from uvfio.linux.kernel.xarray import Ida
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import per_machine

# enum vfio_group_type
VFIO_IOMMU = "iommu"
VFIO_EMULATED_IOMMU = "emulated"  # made for one device whose DMA its driver does for it
VFIO_NO_IOMMU = "no IOMMU"  # made for one device whose DMA nothing keeps in check


class Vfio:
    """The statics of ``group.c``, ``vfio_main.c`` and ``container.c``."""

    def __init__(self) -> None:
        self.group_lock = Mutex("vfio.group_lock")
        self.group_list: list[VfioGroup] = []  # group_lock
        self.group_ida = Ida("vfio.group_ida")
        self.group_major = 0
        self.group_class: Any = None
        self.device_ida = Ida("vfio.device_ida")
        self.device_major = 0
        self.device_class: Any = None
        self.device_set_lock = Mutex("vfio_device_set_xa.xa_lock")
        self.device_sets: dict[Any, VfioDeviceSet] = {}  # by set id; device_set_lock
        self.iommu_drivers: list[VfioIommuDriverOps] = []
        self.noiommu = False  # enable_unsafe_noiommu_mode


vfio = per_machine(Vfio)


@kstruct("container", "container_users", "iommu_group", "iommufd", "opened_file", "cdev_device_open_cnt", "kvm")
class VfioGroup:
    """``struct vfio_group``: what ``/dev/vfio/N`` is about; outlives its iommu_group."""

    def __init__(self, iommu_group: Any, minor: int, type: str) -> None:
        self.minor = minor
        self.type = type
        self.dev: Device
        self.cdev: Cdev
        self.drivers = Refcount("vfio_group.drivers")  # registered devices; stable at 0 under group_lock
        self.group_lock = Mutex("vfio_group.group_lock")
        # All of these under group_lock. container is None exactly when container_users is 0.
        self.iommu_group = iommu_group  # None once the last device is gone
        self.container: VfioContainer | None = None
        self.container_users = 0
        self.iommufd: Any = None
        self.opened_file: File | None = None
        self.cdev_device_open_cnt = 0
        self.device_lock = Mutex("vfio_group.device_lock")
        self.device_list: list[VfioDevice] = []  # device_lock
        self.kvm_ref_lock = Spinlock("vfio_group.kvm_ref_lock")
        self.kvm: Any = None  # kvm_ref_lock; no reference: kvm-vfio clears it in time


@kstruct("iommu_driver", "iommu_data")
class VfioContainer:
    """``struct vfio_container``: what groups share their mappings through."""

    def __init__(self) -> None:
        self.kref = Kref("vfio_container.kref")
        self.group_lock = RwSemaphore("vfio_container.group_lock")
        self.group_list: list[VfioGroup] = []  # group_lock
        self.iommu_driver: VfioIommuDriverOps | None = None  # group_lock
        self.iommu_data: Any = None  # group_lock
        self.noiommu = False  # group_lock; what kind of groups it has, if any


class VfioDeviceSet:
    """``struct vfio_device_set``: devices that are reset together open under one lock."""

    def __init__(self, set_id: Any) -> None:
        self.set_id = set_id
        self.lock = Mutex("vfio_device_set.lock")
        self.device_list: list[VfioDevice] = []  # lock
        self.device_count = 0  # vfio.device_set_lock


@kstruct("open_count", "iommufd_device", "iommufd_access", "iommufd_attached", "cdev_opened", "kvm")
class VfioDevice:
    """``struct vfio_device``. A driver keeps its own state beside it in ``drvdata``."""

    def __init__(self, dev: Device, ops: VfioDeviceOps, index: int) -> None:
        self.dev = dev  # the device that is passed to user space
        self.ops = ops
        self.index = index
        self.drvdata: Any = None
        self.device: Device  # vfioN in the class vfio-dev
        self.cdev: Cdev
        self.group: VfioGroup = cast(VfioGroup, None)  # until it is registered
        self.dev_set: VfioDeviceSet
        self.migration_flags = 0  # VFIO_MIGRATION_...
        self.mig_ops: Any = None  # a migration.VfioMigrationOps, if it has these flags
        self.log_ops: Any = None  # a migration.VfioLogOps, if its DMA can be logged
        self.precopy_info_v2 = False
        self.refcount = Refcount("vfio_device.refcount")  # the registration
        self.comp = Completion("vfio_device.comp")
        # All of these under dev_set.lock.
        self.open_count = 0
        self.iommufd_device: Any = None
        self.iommufd_access: Any = None  # instead of it, if the driver does the DMA
        self.iommufd_attached = False
        self.pasids: set[int] = set()  # dev_set.lock; those that are attached
        self.cdev_opened = False
        self.kvm: Any = None  # with a reference, from the first open to the last close
        self.put_kvm: Callable[[Any], None] | None = None  # kvm_put_kvm, its module pinned


@kstruct("access_granted", "iommufd", "kvm")
class VfioDeviceFile:
    """``struct vfio_device_file``: one open device file."""

    def __init__(self, device: VfioDevice, group: VfioGroup | None) -> None:
        self.device = device
        self.group = group  # None: opened through the cdev
        self.access_granted = False
        self.devid = 0
        self.iommufd: Any = None  # dev_set.lock
        self.kvm_ref_lock = Spinlock("vfio_device_file.kvm_ref_lock")
        self.kvm: Any = None  # kvm_ref_lock; no reference


class VfioDeviceOps:
    """``struct vfio_device_ops``; what a driver does not define answers as if it were NULL."""

    name = "vfio"
    pins_pages = False  # it has a dma_unmap
    has_pasids = False  # it has pasid_attach_ioas and pasid_detach_ioas

    def release(self, device: VfioDevice) -> None:
        """The last reference to *device* is gone."""

    def match(self, device: VfioDevice, name: str) -> bool:
        """Does the user's *name* mean *device*? Errno for options in it that are wrong."""
        return name == device.dev.name

    def match_token_uuid(self, device: VfioDevice, uuid: bytes | None) -> None:
        """Errno unless *uuid* may open *device*."""

    def bind_iommufd(self, device: VfioDevice, ictx: Any) -> int:
        """Bind to the iommufd; the id of the device there."""
        raise Errno(EINVAL)

    def unbind_iommufd(self, device: VfioDevice) -> None:
        """Undo :meth:`bind_iommufd`."""

    def attach_ioas(self, device: VfioDevice, pt_id: int) -> int:
        """Attach to, or move to, the page table *pt_id*; the id of what is attached."""
        raise Errno(EINVAL)

    def detach_ioas(self, device: VfioDevice) -> None:
        """Undo :meth:`attach_ioas`; harmless when nothing is attached."""

    def pasid_attach_ioas(self, device: VfioDevice, pasid: int, pt_id: int) -> int:
        raise NotImplementedError

    def pasid_detach_ioas(self, device: VfioDevice, pasid: int) -> None:
        raise NotImplementedError

    def open_device(self, device: VfioDevice) -> None:
        """The first file is opened."""

    def close_device(self, device: VfioDevice) -> None:
        """The last file is closed."""

    def read(self, device: VfioDevice, buf: int, count: int, pos: int) -> int:
        raise Errno(EINVAL)

    def write(self, device: VfioDevice, buf: int, count: int, pos: int) -> int:
        raise Errno(EINVAL)

    def mmap(self, device: VfioDevice, vma: Vma, file: File) -> None:
        raise Errno(EINVAL)

    def ioctl(self, device: VfioDevice, cmd: int, arg: int) -> int:
        raise Errno(ENOTTY)

    def get_region_info_caps(self, device: VfioDevice, info: Any) -> list[tuple[int, int, bytes]]:
        """Fill the struct vfio_region_info *info*; capabilities as (id, version, body)."""
        raise Errno(EINVAL)

    def dma_unmap(self, device: VfioDevice, iova: int, length: int) -> None:
        """Mappings go: unpin what is pinned there. Only asked where ``pins_pages`` says so."""

    def request(self, device: VfioDevice, count: int) -> None:
        """Ask the user for the *count*-th time to let go of *device*."""

    def device_feature(self, device: VfioDevice, flags: int, arg: int, argsz: int) -> int:
        raise Errno(ENOTTY)


class VfioIommuDriverOps:
    """``struct vfio_iommu_driver_ops``: an IOMMU driver for containers."""

    name = "vfio-iommu"

    def open(self, arg: int) -> Any:
        """State for a container that chose the type *arg*. Errno EINVAL when not ours."""
        raise NotImplementedError

    def release(self, data: Any) -> None:
        raise NotImplementedError

    def check_extension(self, data: Any, arg: int) -> int:
        raise NotImplementedError

    def ioctl(self, data: Any, cmd: int, arg: int) -> int:
        raise NotImplementedError

    def attach_group(self, data: Any, iommu_group: Any, type: str) -> None:
        raise NotImplementedError

    def detach_group(self, data: Any, iommu_group: Any) -> None:
        raise NotImplementedError

    def register_device(self, data: Any, device: VfioDevice) -> None:
        """*device* is open, and may pin pages."""

    def unregister_device(self, data: Any, device: VfioDevice) -> None:
        """It is closed."""

    def pin_pages(self, data: Any, iova: int, npage: int, prot: int) -> list[Any]:
        raise Errno(ENOTTY)

    def unpin_pages(self, data: Any, iova: int, npage: int) -> None:
        raise NotImplementedError

    def dma_rw(self, data: Any, iova: int, length: int, write: bytes | None) -> bytes:
        raise Errno(ENOTTY)
