# SPDX-License-Identifier: GPL-2.0-only
"""
The part of /sys and /dev that clients see instead of the host's.

The tree exists twice: as kernfs and devtmpfs nodes, which decide, and as real
directories, files and links under a temporary directory, which is what a client gets
when it opens a directory: listing it and walking on from it are native. Device nodes
and attributes are empty files there; opening one goes through us.

A directory in MERGED is the host's own: only what the machine has below it is ours. Who
opens one to list it gets a mirror with the names of both; what is the host's is an empty
directory, file or link there, and walking on to it leads to the host (``paths.py``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from errno import ENOENT

from uvfio.linux.base.devtmpfs import DevNode, devtmpfs
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_link_target, kernfs_root
from uvfio.runtime.errors import Errno

MERGED = frozenset(
    f"/sys{below}"
    for below in ("", "/bus", "/class", "/devices", "/devices/virtual", "/devices/system", "/kernel", "/module")
)
# Never the host's, even where the machine has nothing.
OWNED = frozenset(
    (
        *("/sys/bus/pci", "/sys/bus/mdev", "/sys/kernel/iommu_groups", "/sys/class/vfio", "/sys/class/vfio-dev"),
        *("/sys/class/iommu", "/sys/class/mdev_bus", "/dev/vfio", "/dev/iommu"),
    )
)


@dataclass(frozen=True)
class Entry:
    """Something of ours at *path*: *kind* is ``dir``, ``file``, ``link`` or ``dev``."""

    kind: str
    path: str
    node: KernfsNode | DevNode | None = None


class View:
    """
    Make, and :meth:`close`, in a task of the machine. *of_host* are device nodes that the
    machine has too, but of which clients get the host's.
    """

    def __init__(self, of_host: Collection[str] = ()) -> None:
        self.of_host = of_host
        self.root = tempfile.mkdtemp(prefix="uvfio-")
        self._kernfs = kernfs_root()
        self._devtmpfs = devtmpfs()
        self._add_tree(self._kernfs.root)
        for dev in self._devtmpfs.nodes.values():
            self._add_dev(dev)
        self._kernfs.watchers.append(self._kernfs_event)
        self._devtmpfs.watchers.append(self._devtmpfs_event)

    def close(self) -> None:
        self._kernfs.watchers.remove(self._kernfs_event)
        self._devtmpfs.watchers.remove(self._devtmpfs_event)
        shutil.rmtree(self.root, ignore_errors=True)

    def host_path(self, path: str) -> str:
        """Where the mirror of *path* is."""
        return self.root + path

    def seen_path(self, path: str) -> str:
        """What a client calls a host *path*: the other way round."""
        if path == self.root or path.startswith(self.root + "/"):
            return path[len(self.root) :] or "/"
        return path

    def merge(self, path: str) -> Entry | None:
        """The directory *path*, one of MERGED, with the names of both; None if the host has all that we have."""
        node = self._kernfs.root
        for name in path.split("/")[2:]:
            child = node.children.get(name)
            if child is None:
                return None
            node = child
        try:
            with os.scandir(path) as found:
                of_host = {entry.name: entry for entry in found}
        except OSError:
            of_host = {}
        if not set(node.children) - set(of_host):
            return None
        mirror = self.host_path(path)
        for gone in set(os.listdir(mirror)) - set(node.children) - set(of_host):
            _remove(f"{mirror}/{gone}")
        for name in set(of_host) - set(os.listdir(mirror)):
            _add_placeholder(f"{mirror}/{name}", of_host[name])
        return Entry("dir", path, node)

    def find(self, path: str) -> Entry | None:
        """
        What is at the normal, absolute *path*; links are not followed. None: ask the
        host. Errno ENOENT: it is in our part, and not there.
        """
        if path.startswith("/sys/"):
            return self._find_sysfs(path)
        if path.startswith("/dev/"):
            return self._find_dev(path)
        if path.startswith("/run/udev/data/+pci:"):
            raise Errno(ENOENT)  # what udev knows of the host's device at that address
        return None

    def _find_sysfs(self, path: str) -> Entry | None:
        node: KernfsNode | None = self._kernfs.root
        at = "/sys"
        for name in path[5:].split("/"):
            assert node is not None
            child = node.children.get(name)
            if child is None:
                if at in MERGED and not _is_owned(path):
                    return None
                raise Errno(ENOENT)
            node, at = child, f"{at}/{name}"
        assert node is not None
        return None if path in MERGED else Entry(node.kind, path, node)

    def _find_dev(self, path: str) -> Entry | None:
        dev = self._devtmpfs.nodes.get(path)
        if path in self.of_host:
            return None
        if dev is not None:
            return Entry("dev", path, dev)
        below = path + "/"
        if any(each.startswith(below) for each in self._devtmpfs.nodes):
            return Entry("dir", path)
        if path in OWNED or path.startswith("/dev/vfio/"):
            raise Errno(ENOENT)
        return None

    def _add_tree(self, node: KernfsNode) -> None:
        self._add_node(node)
        for child in list(node.children.values()):
            self._add_tree(child)

    def _add_node(self, node: KernfsNode) -> None:
        path = self.host_path(node.path())
        if os.path.lexists(path) and node.kind != "dir":
            _remove(path)  # what stood for the host's of that name
        if node.kind == "dir":
            os.makedirs(path, exist_ok=True)
        elif node.kind == "link":
            os.symlink(kernfs_link_target(node), path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, node.mode))

    def _add_dev(self, dev: DevNode) -> None:
        path = self.host_path(dev.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def _kernfs_event(self, event: str, node: KernfsNode) -> None:
        if event == "add":
            self._add_node(node)
        else:
            _remove(self.host_path(node.path()))

    def _devtmpfs_event(self, event: str, dev: DevNode) -> None:
        if event == "add":
            self._add_dev(dev)
            return
        _unlink(self.host_path(dev.path))
        above = os.path.dirname(dev.path)
        if not any(each.startswith(above + "/") for each in self._devtmpfs.nodes):
            shutil.rmtree(self.host_path(above), ignore_errors=True)


def _is_owned(path: str) -> bool:
    return path.startswith("/sys/devices/pci") or any(path == own or path.startswith(own + "/") for own in OWNED)


def _add_placeholder(path: str, entry: os.DirEntry[str]) -> None:
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), path)
    elif entry.is_dir():
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        _unlink(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
