# SPDX-License-Identifier: GPL-2.0-only
"""What stat, fstat and statx say of our files, as the bytes the client's libc expects."""

from __future__ import annotations

import os
import struct
from stat import S_IFCHR, S_IFREG

from uvfio.linux.base.devtmpfs import DevNode
from uvfio.linux.kernel.fs import File
from uvfio.linux.kernel.kernfs import BinAttribute, KernfsNode
from uvfio.live.attributes import AttributeOperations
from uvfio.live.view import Entry, View

_STAT = struct.Struct("<3Q3I4xQ3q6Q24x")
_TIME = struct.Struct("<qI4x")
_STATX = struct.Struct("<IIQIIIH2xQQQQ64x4I")
STATX_BASIC_STATS = 0x7FF
PAGE_SIZE = 4096


class Attributes:
    """The fields of an inode; the rest is what the mirror says."""

    def __init__(self, base: os.stat_result, mode: int, size: int, rdev: tuple[int, int] = (0, 0)) -> None:
        self.base = base
        self.mode = mode
        self.size = size
        self.rdev = rdev

    def stat(self) -> bytes:
        b = self.base
        times = [part for ns in (b.st_atime_ns, b.st_mtime_ns, b.st_ctime_ns) for part in divmod(ns, 10**9)]
        rdev = os.makedev(*self.rdev)
        head = (b.st_dev, b.st_ino, b.st_nlink, self.mode, b.st_uid, b.st_gid, rdev, self.size, PAGE_SIZE, 0)
        return _STAT.pack(*head, *times)

    def statx(self) -> bytes:
        b = self.base
        head = (STATX_BASIC_STATS, PAGE_SIZE, 0, b.st_nlink, b.st_uid, b.st_gid, self.mode, b.st_ino, self.size, 0, 0)
        data = bytearray(_STATX.pack(*head, *self.rdev, os.major(b.st_dev), os.minor(b.st_dev)).ljust(256, b"\0"))
        for at, ns in ((0x40, b.st_atime_ns), (0x60, b.st_ctime_ns), (0x70, b.st_mtime_ns)):
            _TIME.pack_into(data, at, *divmod(ns, 10**9))
        return bytes(data)


def of_host(base: os.stat_result) -> Attributes:
    return Attributes(base, base.st_mode, base.st_size, (os.major(base.st_rdev), os.minor(base.st_rdev)))


def of_entry(view: View, entry: Entry) -> Attributes:
    base = os.lstat(view.host_path(entry.path))
    if isinstance(entry.node, DevNode):
        return Attributes(base, S_IFCHR | entry.node.mode, 0, entry.node.rdev)
    if isinstance(entry.node, KernfsNode) and entry.kind == "file":
        attr = entry.node.attr
        return Attributes(base, S_IFREG | entry.node.mode, attr.size if isinstance(attr, BinAttribute) else PAGE_SIZE)
    return Attributes(base, base.st_mode, base.st_size)


def of_file(base: os.stat_result, file: File) -> Attributes:
    """*base* is of the memfd that stands for *file*."""
    if file.f_rdev is not None:
        return Attributes(base, S_IFCHR | 0o600, 0, file.f_rdev)
    if isinstance(file.f_op, AttributeOperations):
        return Attributes(base, S_IFREG | file.f_op.node.mode, PAGE_SIZE)
    return Attributes(base, 0o600, 0)  # an anonymous inode has no type
