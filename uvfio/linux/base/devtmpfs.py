# SPDX-License-Identifier: GPL-2.0-only
"""
Device nodes. Mirrors ``drivers/base/devtmpfs.c``.

Difference from Linux: a node is made by whoever asks, not by a kernel thread, and
``/dev`` belongs to the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from uvfio.runtime.task import current, per_machine


@dataclass(frozen=True)
class DevNode:
    """A character device node: ``/dev/vfio/1`` is *rdev* (253, 0)."""

    path: str
    rdev: tuple[int, int]
    mode: int


class Devtmpfs:
    """One machine's ``/dev``. *watchers* hear ``add`` and ``remove``."""

    def __init__(self) -> None:
        self.nodes: dict[str, DevNode] = {}
        self.watchers: list[Callable[[str, DevNode], None]] = []

    def tell(self, event: str, node: DevNode) -> None:
        for watcher in self.watchers:
            watcher(event, node)


devtmpfs = per_machine(Devtmpfs)


def devtmpfs_create_node(path: str, rdev: tuple[int, int], mode: int) -> None:
    """Make the node; one that is there under that name stays, as in Linux."""
    fs = devtmpfs()
    current().runtime.point("devtmpfs_create_node", fs)
    if path in fs.nodes:
        return
    node = fs.nodes[path] = DevNode(path, rdev, mode)
    fs.tell("add", node)


def devtmpfs_delete_node(path: str) -> None:
    fs = devtmpfs()
    current().runtime.point("devtmpfs_delete_node", fs)
    node = fs.nodes.pop(path, None)
    if node is not None:
        fs.tell("remove", node)


def devtmpfs_lookup(path: str) -> DevNode | None:
    """The node at *path*; by the time it is opened, it may be gone."""
    fs = devtmpfs()
    current().runtime.point("devtmpfs_lookup", fs, "r")
    return fs.nodes.get(path)
