# SPDX-License-Identifier: GPL-2.0-only
"""
A sysfs attribute that a client has open.

One opened for reading only is a plain file with the content at the time of the open.
One opened for writing has an fd from the base on, so its writes are seen and answer
with the attribute's errno; for writes through a copy of that fd see ``shellwrite.py``.
Difference from Linux: where those cannot be seen, what was written acts when the last
copy is closed, and an error is only shown by uvfio itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EACCES, EINVAL

from uvfio.linux.kernel.fs import File, FileOperations
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_fop_open, kernfs_read, kernfs_write
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.live.files import take_content
from uvfio.runtime.errors import Errno

PAGE_SIZE = 4096


class AttributeOperations(FileOperations):
    """*complain* hears of an error that nobody waits for any more."""

    name = "sysfs"

    def __init__(self, node: KernfsNode, complain: Callable[[str], None]) -> None:
        self.node = node
        self.complain = complain

    def release(self, file: File) -> None:
        data = take_content(file)
        if not data:
            return
        try:
            kernfs_write(self.node, data)
        except Errno as e:
            self.complain(f"writing {data!r} to {self.node.path()}: {e}")

    def llseek(self, file: File, offset: int, whence: int) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: file.f_pos, os.SEEK_END: PAGE_SIZE}.get(whence)
        if base is None or base + offset < 0:
            raise Errno(EINVAL)
        file.f_pos = base + offset
        return file.f_pos

    def read(self, file: File, buf: int, count: int, pos: int) -> int:
        if file.f_flags & os.O_ACCMODE == os.O_WRONLY:
            raise Errno(EACCES)
        data = kernfs_read(self.node)[pos : pos + count]
        copy_to_user(buf, data)
        return len(data)

    def write(self, file: File, buf: int, count: int, pos: int) -> int:
        data = copy_from_user(buf, min(count, PAGE_SIZE))
        if pos < 0:
            raise Errno(EINVAL)
        return kernfs_write(self.node, data, pos)


def open_attribute(node: KernfsNode, flags: int, complain: Callable[[str], None]) -> File | bytes:
    """The content, if *flags* only ask for that; else a File to be given out."""
    mode = flags & os.O_ACCMODE
    kernfs_fop_open(node, mode != os.O_WRONLY, mode != os.O_RDONLY)
    if mode == os.O_RDONLY:
        try:
            return kernfs_read(node)
        except Errno:
            pass  # the open succeeds, and each read fails
    return File(AttributeOperations(node, complain), f_flags=flags, name=node.path())
