# SPDX-License-Identifier: GPL-2.0-only
"""Who the scenarios of iommufd are about: processes with /dev/iommu, and drivers with an access."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeVar

from uvfio.linux.base.pci import pci_host
from uvfio.linux.iommu import smmuv3_hw
from uvfio.linux.iommu.private import IOMMU_NO_PASID, IOMMU_READ, IOMMU_WRITE
from uvfio.linux.iommufd import access, device, io_pagetable, ioas
from uvfio.linux.iommufd.private import ULONG_MAX, IommufdCtx, IommufdDevice, IommufdHwptPaging, IommufdIoas
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.user import UserProcess
from uvfio.linux.kernel.user_mm import UserMm
from uvfio.runtime.errors import Splat
from uvfio.scenarios.registry import Scene
from uvfio.uapi.iommufd import (
    IOMMU_DESTROY,
    IOMMU_HWPT_ALLOC,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_INVALIDATE,
    IOMMU_IOAS_ALLOC,
    IOMMU_IOAS_COPY,
    IOMMU_IOAS_MAP,
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    IOMMU_IOAS_UNMAP,
    IOMMU_VDEVICE_ALLOC,
    IOMMU_VIOMMU_ALLOC,
    IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
    IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
)
from uvfio.uapi.vfio import VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_DEVICE_BIND_IOMMUFD

T = TypeVar("T")

PAGE = 4096
VSID = 5  # what a guest calls its device
IOVA = 0x10000
MAP_FLAGS = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE


class IommufdUser(UserProcess):
    """A process that has /dev/iommu open, and memory to map."""

    def __init__(self, scene: Scene, comm: str = "user", mm: UserMm | None = None) -> None:
        super().__init__(comm)
        self.mm = mm or self.mm
        self.capabilities = set()  # with CAP_IPC_LOCK nothing would be accounted
        scene.processes.append(self)
        self.scene = scene
        self.bound: list[IommufdDevice] = []
        self.iommufd = self.open("/dev/iommu")
        self.memory = self.mm.mmap(4 * PAGE)
        scene.afterwards(self.check_domains)

    @property
    def ictx(self) -> IommufdCtx:
        ictx: IommufdCtx = self.files.get(self.iommufd).private_data
        return ictx

    def enter(self, body: Callable[[], T]) -> T:
        """Do *body* as a system call of this process."""
        return self._call(body)

    def call(self, fd: int, cmd: int, layout: str, *values: int) -> tuple[int, ...]:
        """An ioctl on a struct; what the kernel left there."""
        arg = self.mm.mmap(PAGE)
        self.mm.write(arg, struct.pack("<" + layout, *values))
        self.ioctl(fd, cmd, arg)
        return struct.unpack("<" + layout, self.mm.read(arg, struct.calcsize("<" + layout)))

    def object(self, object_id: int) -> Any:
        """What the kernel has behind *object_id*."""
        return self.ictx.objects.entries[object_id]

    def check_domains(self) -> None:
        """Devices must reach what is mapped, and nothing else."""
        if self.iommufd not in self.files.table:
            return
        for number, hwpt in self.ictx.objects.items():
            if not isinstance(hwpt, IommufdHwptPaging) or hwpt.domain is None:
                continue
            for iova in (IOVA, IOVA + PAGE):
                area = hwpt.ioas.iopt.area_itree.iter_first(iova, iova)
                revoked = area is not None and area.pages is not None and getattr(area.pages.dmabuf, "revoked", False)
                mapped = area is not None and not revoked
                if (hwpt.domain.iova_to_phys(iova) is not None) != mapped:
                    there = "not there" if mapped else "still there"
                    raise Splat("stale-mapping", f"{iova:#x} is {there} in hwpt {number}")

    def destroy(self, object_id: int) -> None:
        self.call(self.iommufd, IOMMU_DESTROY, "2I", 8, object_id)

    def ioas_alloc(self) -> int:
        return self.call(self.iommufd, IOMMU_IOAS_ALLOC, "3I", 12, 0, 0)[2]

    def map(self, ioas: int, iova: int = IOVA, length: int = PAGE, at: int = 0) -> None:
        where = at or self.memory
        self.call(self.iommufd, IOMMU_IOAS_MAP, "4I3Q", 40, MAP_FLAGS, ioas, 0, where, length, iova)

    def iopt_map(self, number: int) -> None:
        """The same without looking the IOAS up, which is a race of its own."""
        found: IommufdIoas = self.object(number)
        prot = IOMMU_READ | IOMMU_WRITE
        self.enter(lambda: ioas.iopt_map_user_pages(self.ictx, found, IOVA, self.memory, PAGE, prot))

    def unmap(self, ioas: int, iova: int = IOVA, length: int = PAGE) -> None:
        self.call(self.iommufd, IOMMU_IOAS_UNMAP, "2I2Q", 24, ioas, iova, length)

    def iopt_unmap(self, ioas: int, iova: int = IOVA, length: int = PAGE) -> None:
        """As :meth:`iopt_map`."""
        io_pagetable.iopt_unmap_iova(self.object(ioas).iopt, iova, length)

    def copy(self, ioas: int, source: int, iova: int = IOVA, length: int = PAGE) -> None:
        """Map in *ioas*, at the same place, what *source* has there."""
        self.call(self.iommufd, IOMMU_IOAS_COPY, "4I3Q", 40, MAP_FLAGS, ioas, source, length, iova, iova)

    def hwpt_alloc(self, dev_id: int, parent: int, flags: int = 0, fault_id: int = 0) -> int:
        values = (48, flags, dev_id, parent, 0, 0, 0, 0, 0, fault_id, 0)
        return self.call(self.iommufd, IOMMU_HWPT_ALLOC, "8IQ2I", *values)[4]

    def bind(self, ioas: int = 0) -> IommufdDevice:
        """
        A device that its driver has bound, attached to *ioas* if that is not 0; undone
        when all is over, as far as it is not yet.
        """
        idev = device.iommufd_device_bind(self.ictx, pci_host().found[self.scene.plug("edu")])
        if ioas:
            self.attach(idev, ioas)
        self.bound.append(idev)
        self.scene.afterwards(lambda: self.unbind(idev))
        return idev

    def attach(self, idev: IommufdDevice, pt_id: int) -> int:
        """The id of the page table that it is on then."""
        return device.iommufd_device_attach(idev, IOMMU_NO_PASID, pt_id)

    def replace(self, idev: IommufdDevice, pt_id: int) -> int:
        return device.iommufd_device_replace(idev, IOMMU_NO_PASID, pt_id)

    def detach(self, idev: IommufdDevice) -> None:
        device.iommufd_device_detach(idev, IOMMU_NO_PASID)

    def unbind(self, idev: IommufdDevice) -> None:
        """As a driver does when its device is closed; nothing if it did already."""
        if idev not in self.bound:
            return
        self.bound.remove(idev)
        if IOMMU_NO_PASID in idev.igroup.pasid_attach:
            self.detach(idev)
        device.iommufd_device_unbind(idev)


class Guest(IommufdUser):
    """Somebody who runs a guest: devices bound to an iommufd, and a vIOMMU on a nesting parent."""

    def __init__(self, scene: Scene, devices: int = 1) -> None:
        super().__init__(scene, "vmm")
        self.bdfs = [scene.plug("edu") for _n in range(devices)]
        self.devices = [self.open(f"/dev/vfio/devices/vfio{n}") for n in range(devices)]
        self.ids = [self.call(fd, VFIO_DEVICE_BIND_IOMMUFD, "2IiI", 16, 0, self.iommufd, 0)[3] for fd in self.devices]
        self.parent = self.hwpt_alloc(self.ids[0], self.ioas_alloc(), IOMMU_HWPT_ALLOC_NEST_PARENT)
        kind, ids = IOMMU_VIOMMU_TYPE_ARM_SMMUV3, (self.ids[0], self.parent)
        self.viommu = self.call(self.iommufd, IOMMU_VIOMMU_ALLOC, "8IQ", 40, 0, kind, *ids, 0, 0, 0, 0)[5]

    def vdevice_alloc(self, device: int = 0, virt_id: int = VSID) -> int:
        return self.call(self.iommufd, IOMMU_VDEVICE_ALLOC, "4IQ", 24, self.viommu, self.ids[device], 0, virt_id)[3]

    def close_device(self) -> None:
        self.close(self.devices[0])

    def attach_device(self) -> None:
        self.call(self.devices[0], VFIO_DEVICE_ATTACH_IOMMUFD_PT, "3I", 12, 0, self.parent)

    def invalidate(self, object_id: int) -> None:
        """Forget the context descriptors of the guest's device."""
        commands = self.mm.mmap(PAGE)
        stream = VSID << smmuv3_hw.CMDQ_0_SID_SHIFT
        self.mm.write(commands, struct.pack("<2Q", smmuv3_hw.CMDQ_OP_CFGI_CD_ALL | stream, 0))
        kind = IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3
        self.call(self.iommufd, IOMMU_HWPT_INVALIDATE, "2IQ4I", 32, object_id, commands, kind, 16, 1, 0)


class PinningDriver:
    """A driver with an access: it pins a page of the IOAS, until it is told to let go of it."""

    def __init__(self, user: IommufdUser, ioas: int) -> None:
        self.lock = Mutex("driver.lock")
        self.pinned: list[int] = []  # lock; by IOVA, each as often as it is pinned
        self.access = access.iommufd_access_create(user.ictx, self.unpin, True)
        access.iommufd_access_attach(self.access, ioas)
        self.destroyed = False
        user.scene.afterwards(self.destroy)

    def pin(self, iova: int = IOVA) -> None:
        with self.lock:
            access.iommufd_access_pin_pages(self.access, iova, PAGE, IOMMU_READ)
            self.pinned.append(iova)

    def unpin(self, iova: int = 0, length: int = ULONG_MAX) -> None:
        """What is pinned in that range, which need not be anything."""
        # With the lock: what somebody else unpins just now must be unpinned when this returns.
        with self.lock:
            for each in sorted(self.pinned):
                if iova <= each < iova + length:
                    self.pinned.remove(each)
                    access.iommufd_access_unpin_pages(self.access, each, PAGE)

    def destroy(self) -> None:
        """As a driver does when its device is closed; nothing if it did already."""
        if not self.destroyed:
            self.destroyed = True
            self.unpin()  # an unmap does not wait for an access that goes with something pinned: it warns
            access.iommufd_access_destroy(self.access)

    def read(self, iova: int = IOVA) -> None:
        access.iommufd_access_rw(self.access, iova, PAGE)
