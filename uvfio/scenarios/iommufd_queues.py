# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of what a vIOMMU has beside its devices: events for the guest, and memory to map."""

from __future__ import annotations

from functools import partial

from uvfio.linux.iommu.iommufd import (
    IommufdMmapMemory,
    IommufdViommu,
    iommufd_viommu_alloc_mmap,
    iommufd_viommu_destroy_mmap,
    iommufd_viommu_report_event,
)
from uvfio.linux.kernel.fs import File
from uvfio.runtime.errors import Splat
from uvfio.scenarios.iommufd_user import PAGE, Guest
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.iommufd import IOMMU_VEVENTQ_ALLOC, iommufd_vevent_header

VEVENTQ_TYPE = 1
HEADER_SIZE = iommufd_vevent_header.size_of


class _Listener(Guest):
    """A guest that hears of the events of its vIOMMU."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        answer = self.call(self.iommufd, IOMMU_VEVENTQ_ALLOC, "8I", 32, 0, self.viommu, VEVENTQ_TYPE, 4, 0, 0, 0)
        self.veventq, self.queue = answer[5:7]
        self.heard: list[bytes] = []

    def report(self, event: bytes) -> None:
        """What a driver does in an interrupt thread."""
        iommufd_viommu_report_event(self.object(self.viommu), VEVENTQ_TYPE, event)

    def read_one(self) -> None:
        event = self.read(self.queue, HEADER_SIZE + 8)
        if event:
            self.heard.append(event[HEADER_SIZE:])

    def read_half(self) -> None:
        """Read one to where there is memory for the header only."""
        file: File = self.files.get(self.queue)
        end = self.mm.mmap(PAGE) + PAGE
        self.enter(lambda: file.f_op.read(file, end - HEADER_SIZE, HEADER_SIZE + 8, 0))


@scenario(("EFAULT", "reported"), iommu="smmuv3")
def half_a_read_vs_event(scene: Scene) -> None:
    """Is an event read once and only once, in its turn, if at first there is no room for it?"""
    user = _Listener(scene)
    user.report(b"event  1")
    scene.task("A", user.read_half, "read")
    scene.task("B", partial(user.report, b"event  2"), "reported")

    def all_heard() -> None:
        user.read_one()
        user.read_one()
        if user.heard != [b"event  1", b"event  2"]:
            raise Splat("exactly-once", f"events 1 and 2 were read as {user.heard}")

    scene.afterwards(all_heard)


@scenario(("destroyed", "reported"), ("destroyed", "EOPNOTSUPP"), iommu="smmuv3")
def destroy_vs_event(scene: Scene) -> None:
    """What becomes of an event whose queue goes?"""
    user = _Listener(scene)
    user.close(user.queue)
    scene.task("A", partial(user.destroy, user.veventq), "destroyed")
    scene.task("B", partial(user.report, b"event  1"), "reported")


class _Doorbell(Guest):
    """A guest whose vIOMMU has a page of registers to map."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        viommu: IommufdViommu = self.object(self.viommu)
        self.offset = iommufd_viommu_alloc_mmap(viommu, IommufdMmapMemory(PAGE), PAGE)
        setattr(viommu, "destroy", lambda: iommufd_viommu_destroy_mmap(viommu, self.offset))


@scenario(("mapped", "EBUSY"), ("ENXIO", "destroyed"), iommu="smmuv3")
def mmap_vs_destroy(scene: Scene) -> None:
    """Can memory be mapped whose owner is being destroyed?"""
    user = _Doorbell(scene)
    scene.task("A", lambda: str(user.mmap_file(user.iommufd, PAGE, user.offset) and "mapped"), "mapped")
    scene.task("B", partial(user.destroy, user.viommu), "destroyed")


@scenario(("unmapped", "closed"), iommu="smmuv3")
def munmap_vs_close(scene: Scene) -> None:
    """Who has the memory of an iommufd that is closed while it is mapped?"""
    user = _Doorbell(scene)
    at = user.mmap_file(user.iommufd, PAGE, user.offset)
    scene.task("A", partial(user.munmap, at), "unmapped")
    scene.task("B", partial(user.close, user.iommufd), "closed")


@scenario(("closed", "destroyed"), ("closed", "EBUSY"), iommu="smmuv3")
def close_vs_destroy_of_a_queue(scene: Scene) -> None:
    """Which goes first, the file of an event queue or its object?"""
    user = _Listener(scene)
    user.report(b"event  1")
    scene.task("A", partial(user.close, user.queue), "closed")
    scene.task("B", partial(user.destroy, user.veventq), "destroyed")
