# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of IOMMU groups."""

from functools import partial

from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_find, kernfs_write
from uvfio.scenarios.registry import Scene, scenario


def _store(node: KernfsNode, data: bytes) -> None:
    kernfs_write(node, data)


@scenario(("queue", "gone"), ("ENODEV", "gone"), ("EINVAL", "gone"), ("EPERM", "gone"), expected="null-pointer")
def type_vs_remove(scene: Scene) -> None:
    """What does a write to a group's type find when the last device has gone meanwhile?"""
    bdf = scene.plug("edu")
    node = kernfs_find("/sys/kernel/iommu_groups/1/type")
    assert node is not None
    scene.task("A", partial(_store, node, b"DMA-FQ"), "queue")
    scene.task("B", lambda: scene.unplug(bdf), "gone")
