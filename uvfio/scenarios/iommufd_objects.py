# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of iommufd's objects: bound devices and page tables that go while they are used."""

from __future__ import annotations

from functools import partial

from uvfio.scenarios.iommufd_user import IommufdUser, PinningDriver
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.iommufd import IOMMU_GET_HW_INFO


@scenario(("unbound", "EBUSY"), ("unbound", "ENOENT"))
def unbind_vs_user_destroy(scene: Scene) -> None:
    """Can user space, destroying the device that it is not to destroy, keep it from being unbound?"""
    user = IommufdUser(scene)
    idev = user.bind()
    scene.task("A", partial(user.unbind, idev), "unbound")
    scene.task("B", partial(user.destroy, idev.id), "destroyed")


@scenario(("unbound", "told"), ("unbound", "ENOENT"))
def unbind_vs_hw_info(scene: Scene) -> None:
    """Does an unbind wait for a call that uses the device?"""
    user = IommufdUser(scene)
    idev = user.bind()
    scene.task("A", partial(user.unbind, idev), "unbound")
    scene.task("B", partial(_hw_info, user, idev.id), "told")


def _hw_info(user: IommufdUser, dev_id: int) -> None:
    user.call(user.iommufd, IOMMU_GET_HW_INFO, "4IQ2IQ", 40, 0, dev_id, 0, 0, 0, 0, 0)


@scenario(("unbound", "closed"))
def unbind_vs_close(scene: Scene) -> None:
    """Who cleans up an iommufd that is closed while a device is still bound to it?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    idev = user.bind(ioas)
    scene.task("A", partial(user.unbind, idev), "unbound")
    scene.task("B", partial(user.close, user.iommufd), "closed")


@scenario(("attached", "EBUSY"))
def two_attaches(scene: Scene) -> None:
    """Is the page table there that an IOAS makes for two devices that are attached at the same time?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    idev, other = user.bind(), user.bind()
    scene.task("A", partial(user.attach, idev, ioas), "attached")
    scene.task("B", lambda: user.destroy(user.attach(other, ioas)), "destroyed")


@scenario(("attached", "destroyed"))
def attach_vs_hwpt_destroy(scene: Scene) -> None:
    """Does an IOAS forget the page tables that are destroyed?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    idev, other = user.bind(), user.bind()
    hwpt = user.hwpt_alloc(other.id, ioas)
    user.attach(other, hwpt)
    user.detach(other)
    scene.task("A", partial(user.attach, idev, ioas), "attached")
    scene.task("B", partial(user.destroy, hwpt), "destroyed")


@scenario(("replaced", "unmapped"))
def replace_vs_unmap(scene: Scene) -> None:
    """Is anything left mapped for a device that changes its IOAS while that is unmapped?"""
    user = IommufdUser(scene)
    ioas, other = user.ioas_alloc(), user.ioas_alloc()
    user.map(other)
    idev = user.bind(ioas)
    scene.task("A", partial(user.replace, idev, other), "replaced")
    scene.task("B", partial(user.iopt_unmap, other), "unmapped")


@scenario(("replaced", "EBUSY"), ("ENOENT", "destroyed"))
def replace_vs_destroy(scene: Scene) -> None:
    """Can a device end up on a page table that is being destroyed?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    idev = user.bind(ioas)
    hwpt = user.hwpt_alloc(idev.id, ioas)
    scene.task("A", partial(user.replace, idev, hwpt), "replaced")
    scene.task("B", partial(user.destroy, hwpt), "destroyed")


@scenario(("destroyed", "closed"))
def access_destroy_vs_close(scene: Scene) -> None:
    """Who cleans up an iommufd that is closed while a driver still has an access to it?"""
    user = IommufdUser(scene)
    ioas = user.ioas_alloc()
    user.map(ioas)
    driver = PinningDriver(user, ioas)
    driver.pin()
    scene.task("A", driver.destroy, "destroyed")
    scene.task("B", partial(user.close, user.iommufd), "closed")
