# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of the memory behind areas: pinned by page tables and accesses, or a dma-buf's."""

from __future__ import annotations

from functools import partial

from uvfio.linux.kernel.dma_buf import DmaBuf, dma_buf_export
from uvfio.linux.kernel.user_mm import Memory
from uvfio.scenarios.iommufd_user import IOVA, MAP_FLAGS, PAGE, IommufdUser, PinningDriver
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.iommufd import IOMMU_IOAS_MAP_FILE


@scenario(("detached", "unpinned"))
def detach_vs_unpin(scene: Scene) -> None:
    """Who unpins a page that a page table and a driver both have pinned?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.map(ioas, length=2 * PAGE)
    driver = PinningDriver(user, ioas)
    idev = user.bind(ioas)
    driver.pin(IOVA + PAGE)
    scene.task("A", partial(user.detach, idev), "detached")
    scene.task("B", driver.unpin, "unpinned")


@scenario(("unmapped", "pinned"))
def unmap_vs_pin_of_a_copy(scene: Scene) -> None:
    """Does memory stay pinned for the driver of one IOAS while another unmaps it?"""
    user = IommufdUser(scene)
    here, there = user.ioas_alloc(), user.ioas_alloc()
    user.map(here)
    user.copy(there, here)
    user.bind(here)
    driver = PinningDriver(user, there)
    scene.task("A", partial(user.iopt_unmap, here), "unmapped")
    scene.task("B", driver.pin, "pinned")


@scenario(("EOVERFLOW",))
def map_beyond_the_end(scene: Scene) -> None:
    """Is memory refused that begins at the end of the address space and ends at its beginning?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.bind(ioas)
    scene.task("A", partial(user.map, ioas, length=2 * PAGE, at=(1 << 64) - PAGE), "mapped")


@scenario(("unmapped", "revoked"))
def unmap_vs_revoke(scene: Scene) -> None:
    """Is a dma-buf still there for whoever is told that it is revoked?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    dmabuf = DmaBuf(PAGE, Memory(PAGE).pin(0, PAGE), lambda _dmabuf: None)
    fd = user.files.reserve(0)
    user.files.install(fd, dma_buf_export(dmabuf, 0))
    user.call(user.iommufd, IOMMU_IOAS_MAP_FILE, "3Ii3Q", 40, MAP_FLAGS, ioas, fd, 0, PAGE, IOVA)
    user.bind(ioas)
    scene.task("A", partial(user.iopt_unmap, ioas), "unmapped")
    scene.task("B", dmabuf.revoke, "revoked")
