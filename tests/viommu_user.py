# SPDX-License-Identifier: GPL-2.0-only
"""A machine with two SMMUv3s, and a VMM on it: vIOMMUs and vDEVICEs by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from vfio_user import PG, VfioUser

from uvfio.machine import Machine, Plugged
from uvfio.uapi import iommufd as uapi
from uvfio.uapi.cstruct import CStruct

NEAR, OTHER = "0000:00:01.0", "0000:00:10.0"  # behind the first SMMU, behind the second
MEMORY = 0x4000_0000  # where guests have theirs
BYPASS, ABORT, TRANSLATE = 4, 0, 5


def on(iommu: str, model: str = "edu") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the test runs in a task of a machine with *model* at NEAR, NEAR + 1 and OTHER; it gets a Vmm."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def run(**kwargs: Any) -> None:
            machine = Machine(iommu=iommu)
            machine.boot([Plugged(model, NEAR), Plugged(model), Plugged(model, OTHER)])
            machine.run(lambda: test(Vmm(), **kwargs))

        run.__name__ = test.__name__
        run.__doc__ = test.__doc__
        run.__dict__.update(test.__dict__)
        return run

    return decorate


on_smmu = on("smmuv3")


class Vmm(VfioUser):
    """Three devices are bound: two behind one SMMU, the third behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.iommufd = self.open("/dev/iommu")
        self.devices = [self.open(f"/dev/vfio/devices/vfio{n}") for n in range(3)]
        self.dev, self.dev2, self.other = (self.bind(device, self.iommufd) for device in self.devices)
        self.ioas = self.ioas_alloc(self.iommufd)

    def ask(self, request: int, struct: CStruct, size: int | None = None) -> Any:
        """The call on *struct*, whose size word is filled in; what the kernel left there."""
        setattr(struct, "size", struct.size_of if size is None else size)
        return type(struct).unpack(self.call(self.iommufd, request, struct.pack()))

    def buffer(self, data: bytes) -> int:
        at = self.mm.mmap(max(len(data), 1))
        self.mm.write(at, data)
        return at

    def destroy(self, object_id: int) -> None:
        self.ask(uapi.IOMMU_DESTROY, uapi.iommu_destroy(id=object_id))

    def hwpt(self, dev_id: int, pt_id: int, flags: int = 0, data: bytes = b"", data_type: int = 2, **more: int) -> int:
        args = {"data_len": len(data), "data_uptr": self.buffer(data), "data_type": data_type if data else 0, **more}
        cmd = uapi.iommu_hwpt_alloc(dev_id=dev_id, pt_id=pt_id, flags=flags, **args)
        return int(self.ask(uapi.IOMMU_HWPT_ALLOC, cmd).out_hwpt_id)

    def parent(self) -> int:
        return self.hwpt(self.dev, self.ioas, uapi.IOMMU_HWPT_ALLOC_NEST_PARENT)

    def viommu(self, dev_id: int, hwpt_id: int, kind: int = 1, flags: int = 0) -> int:
        cmd = uapi.iommu_viommu_alloc(dev_id=dev_id, hwpt_id=hwpt_id, type=kind, flags=flags)
        return int(self.ask(uapi.IOMMU_VIOMMU_ALLOC, cmd).out_viommu_id)

    def vdevice(self, viommu_id: int, dev_id: int, virt_id: int) -> int:
        cmd = uapi.iommu_vdevice_alloc(viommu_id=viommu_id, dev_id=dev_id, virt_id=virt_id)
        return int(self.ask(uapi.IOMMU_VDEVICE_ALLOC, cmd).out_vdevice_id)

    def nested(self, viommu_id: int, cfg: int, context: int = 0, dev_id: int = 0, **more: int) -> int:
        ste = struct.pack("<2Q", context | cfg << 1 | 1, 0)
        return self.hwpt(dev_id or self.dev, viommu_id, data=ste, **more)

    def invalidate(self, object_id: int, data: bytes, length: int = 16, kind: int = 1, **more: int) -> int:
        """How many entries are done; an Errno's are in ``self.done``."""
        cmd = uapi.iommu_hwpt_invalidate(
            size=32, hwpt_id=object_id, data_uptr=self.buffer(data), data_type=kind, entry_len=length
        )
        for field, value in {"entry_num": len(data) // length if length else 1, **more}.items():
            setattr(cmd, field, value)
        at = self.buffer(cmd.pack())
        try:
            self.ioctl(self.iommufd, uapi.IOMMU_HWPT_INVALIDATE, at)
        finally:
            self.done = int(uapi.iommu_hwpt_invalidate.unpack(self.mm.read(at, 32)).entry_num)
        return self.done

    def map_memory(self) -> int:
        at = self.mm.mmap(16 * PG)
        cmd = uapi.iommu_ioas_map(flags=7, ioas_id=self.ioas, user_va=at, length=16 * PG, iova=MEMORY)
        self.ask(uapi.IOMMU_IOAS_MAP, cmd)
        return at

    def unmap_memory(self) -> None:
        self.ask(uapi.IOMMU_IOAS_UNMAP, uapi.iommu_ioas_unmap(ioas_id=self.ioas, iova=MEMORY, length=16 * PG))
