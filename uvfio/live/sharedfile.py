# SPDX-License-Identifier: GPL-2.0-only
"""
Files whose pages clients have pinned: mapped shared, or given to IOMMU_IOAS_MAP_FILE.

A file is one thing for all clients, whoever has mapped or opened it: the same page has
the same physical address. We map it, too, while something of it is pinned. Difference
from a kernel that holds pages: what is cut off the end of a file (or, of a sealed one,
what was opened for reading only) cannot be reached or written any more.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from errno import EFAULT, EINVAL
from typing import Any
from weakref import WeakValueDictionary

from uvfio.linux.kernel.page_alloc import PAGE_SIZE, Frames
from uvfio.linux.kernel.process import PinnedPages
from uvfio.live import host
from uvfio.runtime.errors import Errno

TMPFS_MAGIC = 0x01021994
HUGETLBFS_MAGIC = 0x958458F6

Key = tuple[int, int]  # device and inode


class SharedFile:
    """A file of which something is pinned."""

    def __init__(self, files: SharedFiles, key: Key, fd: int) -> None:
        self.files = files
        self.key = key
        self.fd = fd
        self.users = 0
        self.frames = files.frames_of(key)
        self.page_size = page_size_of(fd)
        self.view: mmap.mmap | None = None

    def bytes_at(self, offset: int, n: int) -> memoryview:
        """*n* bytes at *offset*; Errno EFAULT beyond the end of the file."""
        # Looked at each time: to touch a page that is cut off would kill us.
        size = os.fstat(self.fd).st_size
        if offset + n > size:
            raise Errno(EFAULT)
        if self.view is None or offset + n > len(self.view):
            try:
                self.view = mmap.mmap(self.fd, size)
            except OSError:
                try:
                    self.view = mmap.mmap(self.fd, size, prot=mmap.PROT_READ)
                except OSError:
                    raise Errno(EFAULT) from None
        return memoryview(self.view)[offset : offset + n]

    def store(self, offset: int, data: memoryview) -> None:
        """Errno EFAULT also when it is open for reading only."""
        try:
            self.bytes_at(offset, len(data))[:] = data
        except TypeError:
            raise Errno(EFAULT) from None

    def get(self) -> None:
        self.users += 1

    def put(self) -> None:
        self.users -= 1
        if self.users == 0:
            os.close(self.fd)
            self.view = None
            self.files.pinned.pop(self.key, None)


class SharedFiles:
    """All of them, and the physical addresses of every file that somebody has asked about."""

    def __init__(self) -> None:
        self.pinned: dict[Key, SharedFile] = {}
        self.address_spaces: set[Any] = set()  # those of clients that live
        self._frames: WeakValueDictionary[Key, Frames] = WeakValueDictionary()

    def frames_of(self, key: Key) -> Frames:
        """Kept as long as somebody keeps it."""
        frames = self._frames.get(key)
        if frames is None:
            frames = self._frames[key] = Frames()
        return frames

    def find(self, key: Key, open_it: Callable[[], int | None]) -> SharedFile | None:
        """The file, which *open_it* opens if need be; None when that cannot be done."""
        shared = self.pinned.get(key)
        if shared is None:
            fd = open_it()
            if fd is None:
                return None
            shared = self.pinned[key] = SharedFile(self, key, fd)
        return shared


class ClientFile:
    """An open file of a client, as memory: ``kernel.process.MemoryFile``. Owns *fd*, our duplicate."""

    def __init__(self, fd: int, pin: Callable[[SharedFile, int, int], PinnedPages], files: SharedFiles) -> None:
        self.fd = fd
        self._pin = pin
        self._files = files

    def pin(self, start: int, length: int) -> PinnedPages:
        found = os.fstat(self.fd)
        if host.fstatfs_type(self.fd) not in (TMPFS_MAGIC, HUGETLBFS_MAGIC) or start + length > found.st_size:
            raise Errno(EINVAL)
        shared = self._files.find((found.st_dev, found.st_ino), self._open_again)
        if shared is None:
            raise Errno(EINVAL)
        return self._pin(shared, start, length)

    def put(self) -> None:
        os.close(self.fd)

    def _open_again(self) -> int | None:
        """For writing, too: a device may write to what the client has open for reading."""
        for mode in (os.O_RDWR, os.O_RDONLY):
            try:
                return os.open(f"/proc/self/fd/{self.fd}", mode | os.O_CLOEXEC)
            except OSError:
                pass
        return None


class NoMemory:
    """A file of the machine's own, as memory: it has none."""

    def pin(self, start: int, length: int) -> PinnedPages:
        raise Errno(EINVAL)

    def put(self) -> None:
        """Nothing is held."""


def page_size_of(fd: int) -> int:
    """Of the pages that the file behind *fd* is made of."""
    return os.fstat(fd).st_blksize if host.fstatfs_type(fd) == HUGETLBFS_MAGIC else PAGE_SIZE
