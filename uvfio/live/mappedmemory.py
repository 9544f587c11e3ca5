# SPDX-License-Identifier: GPL-2.0-only
"""
Memory of the model that clients map (``Vma.memory``): regions of an iommufd.

It lies in the memfd that stands for the file, at the offset that the client maps, and the
model uses a mapping of the same pages. The host does not tell when a client unmaps:
whether a mapping is still there is looked up where it matters, in ``/proc/PID/maps``
of every process. Difference from Linux: an mmap through an fd below the numbers that we
give out (dup2, SCM_RIGHTS) is the host's business, and no reason to stay.
"""

from __future__ import annotations

import mmap
import os
from errno import EBADF
from typing import Any

from uvfio.linux.kernel.fs import File, Vma
from uvfio.live.client import LiveThread
from uvfio.runtime.errors import Errno


class _Shared:
    """A range of a memfd, mapped here; *memory* is the model's that is there now."""

    def __init__(self, pages: mmap.mmap) -> None:
        self.pages = pages
        self.data = memoryview(pages)
        self.memory: Any = None

    def use_for(self, memory: Any) -> None:
        self.data[:] = memory.data
        self.memory = memory
        memory.data = self.data

    def close(self) -> None:
        if self.memory is not None and self.memory.data is self.data:
            self.memory.data = memoryview(bytearray(self.data))
        self.data.release()
        self.pages.close()


class MappedMemory:
    """Of all files."""

    def __init__(self) -> None:
        # Kept as long as the file: to unmap one earlier would look as if the client had closed it.
        self._shared: dict[File, dict[tuple[int, int], _Shared]] = {}

    def mapped(self, thread: LiveThread, file: File, fd: int, vma: Vma) -> None:
        """The host is about to make *vma*."""
        file.host.vmas.append(vma)
        ranges = self._shared.setdefault(file, {})
        where = (vma.offset, vma.length)
        shared = ranges.get(where)
        if shared is None:
            shared = ranges[where] = _Shared(_map(thread, file, fd, vma))
        if shared.memory is not vma.memory:
            shared.use_for(vma.memory)

    def forget_unmapped(self, file: File) -> None:
        """What no client has mapped any more is closed, as its munmap should have done."""
        there = _mapped_offsets(file.host.inode)
        for vma in list(file.host.vmas):
            if not any(vma.offset <= offset < vma.offset + vma.length for offset in there):
                file.host.vmas.remove(vma)
                _close(vma)

    def released(self, file: File) -> None:
        """No client has *file* any more, so nothing of it is mapped."""
        for vma in file.host.vmas:
            _close(vma)
        file.host.vmas.clear()
        for shared in self._shared.pop(file, {}).values():
            shared.close()


def _close(vma: Vma) -> None:
    if vma.close is not None:
        vma.close()


def _map(thread: LiveThread, file: File, fd: int, vma: Vma) -> mmap.mmap:
    try:
        ours = os.open(f"/proc/{thread.tid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise Errno(EBADF) from None
    try:
        found = os.fstat(ours)
        if found.st_ino != file.host.inode:
            raise Errno(EBADF)  # another thread has just put another file there
        os.ftruncate(ours, max(found.st_size, vma.offset + vma.length))
        return mmap.mmap(ours, vma.length, offset=vma.offset)
    finally:
        os.close(ours)


def _mapped_offsets(inode: int) -> set[int]:
    """Where mappings of the memfd with *inode* begin, in whatever process but this."""
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/maps", encoding="utf-8", errors="surrogateescape") as lines:
                for line in lines:
                    words = line.split(maxsplit=5)
                    if words[4] == str(inode) and words[5].startswith("/memfd:uvfio-"):
                        found.add(int(words[2], 16))
        except OSError:
            continue  # it is gone, or not one of ours
    return found
