# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of an IOAS: mapped, copied, unmapped and destroyed at the same time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from uvfio.linux.iommu.private import IOMMU_READ
from uvfio.linux.iommufd import access, ioas, objects
from uvfio.scenarios.iommufd_user import IOVA, PAGE, IommufdUser, PinningDriver
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.iommufd import IOMMU_VFIO_IOAS, IOMMU_VFIO_IOAS_SET
from uvfio.uapi.vfio import VFIO_IOMMU_UNMAP_DMA


@scenario(("mapped", "unmapped"), ("mapped", "ENOENT"), ("mapped", "EBUSY"))
def map_vs_unmap(scene: Scene) -> None:
    """Can a mapping be taken out that is only half there?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.bind(ioas)
    scene.task("A", partial(user.map, ioas), "mapped")
    scene.task("B", partial(user.iopt_unmap, ioas), "unmapped")


@scenario(("mapped", "destroyed"), ("mapped", "EBUSY"), ("ENOENT", "destroyed"))
def map_vs_destroy(scene: Scene) -> None:
    """Can something be mapped in an IOAS that is being destroyed?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    scene.task("A", partial(user.map, ioas), "mapped")
    scene.task("B", partial(user.destroy, ioas), "destroyed")


@scenario(("unmapped", "ENOENT"), ("ENOENT", "unmapped"), ("unmapped", "EBUSY"), ("EBUSY", "unmapped"))
def two_unmaps(scene: Scene) -> None:
    """Who unmaps what two want to unmap?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.map(ioas)
    for name in "AB":
        scene.task(name, partial(user.iopt_unmap, ioas), "unmapped")


@scenario(("unmapped", "ENOENT"), ("unmapped", "unmapped"), ("unmapped", "EBUSY"), ("EBUSY", "unmapped"))
def container_unmap_vs_unmap(scene: Scene) -> None:
    """Is it an error for VFIO that somebody else has unmapped what it unmaps?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.map(ioas)
    user.call(user.iommufd, IOMMU_VFIO_IOAS, "2I2H", 12, ioas, IOMMU_VFIO_IOAS_SET, 0)
    scene.task("A", partial(user.call, user.iommufd, VFIO_IOMMU_UNMAP_DMA, "2I2Q", 24, 0, IOVA, PAGE), "unmapped")
    scene.task("B", partial(user.iopt_unmap, ioas), "unmapped")


@scenario(("copied", "unmapped"), ("ENOENT", "unmapped"))
def copy_vs_unmap(scene: Scene) -> None:
    """Does a copy keep the memory whose first mapping goes?"""
    user = IommufdUser(scene)
    source, ioas = user.ioas_alloc(), user.ioas_alloc()
    user.map(source)
    user.bind(source)
    user.bind(ioas)
    scene.task("A", partial(user.copy, ioas, source), "copied")
    scene.task("B", partial(user.iopt_unmap, source), "unmapped")


@scenario(("copied", "destroyed"), ("copied", "EBUSY"), ("ENOENT", "destroyed"))
def copy_vs_destroy(scene: Scene) -> None:
    """Does a copy hold on to the IOAS that it takes from for longer than it needs?"""
    user = IommufdUser(scene)
    source, number = user.ioas_alloc(), user.ioas_alloc()
    user.map(source)
    user.bind(number)
    scene.task("A", partial(user.copy, number, source), "copied")
    scene.task("B", partial(user.destroy, source), "destroyed")


@scenario(("attached", "mapped"))
def attach_vs_map(scene: Scene) -> None:
    """Does a device that is being attached see what is being mapped?"""
    user = IommufdUser(scene)
    number = user.ioas_alloc()
    idev = user.bind()
    scene.task("A", partial(user.attach, idev, number), "attached")
    scene.task("B", partial(user.iopt_map, number), "mapped")


@scenario(("pinned", "unmapped"), ("ENOENT", "unmapped"), ("EINVAL", "unmapped"))
def pin_vs_unmap(scene: Scene) -> None:
    """Can a driver pin what is being unmapped?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.map(ioas)
    driver, other = PinningDriver(user, ioas), PinningDriver(user, ioas)
    other.pin()
    scene.task("A", driver.pin, "pinned")
    scene.task("B", partial(user.iopt_unmap, ioas), "unmapped")


@scenario(("unpinned", "unmapped"))
def unpin_vs_unmap(scene: Scene) -> None:
    """Who unpins what is unmapped while its driver unpins it?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.map(ioas)
    driver = PinningDriver(user, ioas)
    driver.pin()
    scene.task("A", driver.unpin, "unpinned")
    scene.task("B", partial(user.iopt_unmap, ioas), "unmapped")


@scenario(("read", "unmapped"), ("ENOENT", "unmapped"))
def read_vs_unmap(scene: Scene) -> None:
    """Can a driver read what is being unmapped?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.map(ioas)
    driver = PinningDriver(user, ioas)
    scene.task("A", driver.read, "read")
    scene.task("B", partial(user.iopt_unmap, ioas), "unmapped")


@scenario(("attached", "unmapped"), ("EFAULT", "unmapped"))
def attach_vs_unmap(scene: Scene) -> None:
    """What becomes of an attach that meets memory which is not there any more?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    gone = user.mm.mmap(PAGE)
    user.map(ioas, at=gone)
    user.mm.munmap(gone)
    idev = user.bind()
    scene.task("A", partial(user.attach, idev, ioas), "attached")
    scene.task("B", partial(user.iopt_unmap, ioas), "unmapped")


@scenario(
    ("mapped", "unmapped", "EBUSY"),
    ("mapped", "unmapped", "destroyed"),
    ("mapped", "ENOENT", "EBUSY"),
    ("mapped", "ENOENT", "destroyed"),
    ("mapped", "EBUSY", "EBUSY"),
    ("mapped", "EBUSY", "destroyed"),
)
def map_vs_unmap_vs_destroy(scene: Scene) -> None:
    """Can an IOAS be destroyed before all calls that have found it are over?"""
    user = IommufdUser(scene)
    number = user.ioas_alloc()
    found = [ioas.iommufd_get_ioas(user.ictx, number) for _call in "AB"]

    def call(body: Callable[[int], None]) -> None:
        try:
            body(number)
        finally:
            objects.iommufd_put_object(user.ictx, found[0])

    scene.task("A", partial(call, user.iopt_map), "mapped")
    scene.task("B", partial(call, user.iopt_unmap), "unmapped")
    scene.task("C", partial(user.destroy, number), "destroyed")


@scenario(("mapped", "closed"), ("EBADF", "closed"))
def map_vs_close(scene: Scene) -> None:
    """Does a call that is under way keep the iommufd that is closed meanwhile?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    scene.task("A", partial(user.map, ioas), "mapped")
    scene.task("B", partial(user.close, user.iommufd), "closed")


@scenario(("unmapped", "destroyed"), expected="warning")
def access_destroy_vs_unmap(scene: Scene) -> None:
    """Can an access go while it is being asked to unpin?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.map(ioas)
    driver, other = PinningDriver(user, ioas), PinningDriver(user, ioas)
    other.pin()
    scene.task("A", partial(user.iopt_unmap, ioas), "unmapped")
    scene.task("B", driver.destroy, "destroyed")


@scenario(("replaced", "unmapped"))
def access_replace_vs_unmap(scene: Scene) -> None:
    """Does an unmap reach those that stay when an access goes to another IOAS?"""
    user = IommufdUser(scene)
    here, there = user.ioas_alloc(), user.ioas_alloc()
    user.map(here)
    staying, driver = PinningDriver(user, here), PinningDriver(user, here)
    staying.pin()
    scene.task("A", lambda: access.iommufd_access_replace(driver.access, there), "replaced")
    scene.task("B", partial(user.iopt_unmap, here), "unmapped")


@scenario(("replaced", "pinned"), ("replaced", "ENOENT"))
def access_replace_vs_pin(scene: Scene) -> None:
    """Is anything left pinned in the IOAS that an access leaves?"""
    user = IommufdUser(scene)
    here, there = user.ioas_alloc(), user.ioas_alloc()
    user.map(here)
    driver = PinningDriver(user, here)
    scene.task("A", lambda: access.iommufd_access_replace(driver.access, there), "replaced")
    scene.task("B", driver.pin, "pinned")


@scenario(("destroyed", "unmapped"), ("destroyed", "EBUSY"))
def internal_access_vs_unmap(scene: Scene) -> None:
    """Is what iommufd has pinned for itself left alone, and can it still go?"""
    user = IommufdUser(scene)
    number = user.ioas_alloc()
    user.map(number)
    user.map(number, IOVA + PAGE)
    driver = PinningDriver(user, number)
    driver.pin()
    internal = access.iommufd_access_create_internal(user.ictx)
    access.iommufd_access_attach_internal(internal, user.object(number))
    access.iommufd_access_pin_pages(internal, IOVA + PAGE, PAGE, IOMMU_READ)

    def hw_queue_destroy() -> None:
        access.iommufd_access_unpin_pages(internal, IOVA + PAGE, PAGE)
        access.iommufd_access_detach_internal(internal)
        access.iommufd_access_destroy_internal(user.ictx, internal)

    scene.task("A", hw_queue_destroy, "destroyed")
    scene.task("B", partial(user.iopt_unmap, number, IOVA, 2 * PAGE), "unmapped")
