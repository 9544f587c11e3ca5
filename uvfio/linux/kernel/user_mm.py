# SPDX-License-Identifier: GPL-2.0-only
"""
The memory of a user process that lives inside the machine (``user.py``).

Memory is what :meth:`UserMm.mmap` gave; addresses start high and holes are never reused.
A memfd's size is in whole pages.
"""

from __future__ import annotations

from bisect import bisect_right
from errno import EFAULT, EINVAL
from typing import Any

from uvfio.linux.kernel.fs import FileOperations
from uvfio.linux.kernel.page_alloc import PAGE_SIZE, Frames, contiguous_in
from uvfio.runtime.errors import Errno

FIRST_ADDRESS = 0x7F00_0000_0000


class Memory(FileOperations):
    """Anonymous memory, or what a memfd holds: bytes, and where they physically are."""

    name = "memfd"

    def __init__(self, length: int, page_size: int = PAGE_SIZE) -> None:
        self.data: Any = bytearray(-(-length // page_size) * page_size)
        self.page_size = page_size
        self.frames = Frames()

    def truncate(self, length: int) -> None:
        """Give it another size. What is pinned stays as it is."""
        data = bytearray(-(-length // self.page_size) * self.page_size)
        kept = min(len(data), len(self.data))
        data[:kept] = self.data[:kept]
        self.data = data

    def pin(self, start: int, length: int) -> _Pinned:
        """``memfd_pin_folios()``. Errno EINVAL beyond the end."""
        if start + length > len(self.data):
            raise Errno(EINVAL)
        return _Pinned(self, start, length)

    def put(self) -> None:
        """Nothing to do: memory of the model is Python's to free."""


class NoMemory:
    """A file of another kind, as memory."""

    def pin(self, start: int, length: int) -> _Pinned:
        raise Errno(EINVAL)

    def put(self) -> None:
        """Nothing is held."""


class _Region:
    """A mapping of a process: *memory* from *offset* on."""

    def __init__(self, start: int, length: int, writable: bool, memory: Memory, offset: int) -> None:
        self.start = start
        self.length = length
        self.writable = writable
        self.memory = memory
        self.offset = offset

    @property
    def data(self) -> memoryview:
        return memoryview(self.memory.data)[self.offset : self.offset + self.length]


class _Pinned:
    """Pinned pages stay what they were, whatever becomes of the mapping."""

    def __init__(self, memory: Memory, start: int, length: int) -> None:
        self.view = memoryview(memory.data)[start : start + length]
        self.length = length
        self.memory = memory
        self.start = start

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.view[offset : offset + len(buffer)]

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        self.view[offset : offset + len(data)] = data

    def phys(self, offset: int) -> int:
        return self.memory.frames.phys(self.start + offset, self.memory.page_size)

    def contiguous(self, offset: int) -> int:
        return contiguous_in(self.start + offset, self.memory.page_size)

    def unpin(self) -> None:
        self.view.release()


class UserMm:
    """The address space of a :class:`UserProcess`."""

    def __init__(self) -> None:
        self.locked_vm = 0
        self.pinned_vm = 0
        self.alive = True
        self.rewrites = True
        self.limit: int | None = None
        self.starts: list[int] = []
        self.regions: list[_Region] = []
        self.next = FIRST_ADDRESS

    def mmap(self, length: int, writable: bool = True, page_size: int = PAGE_SIZE) -> int:
        """Map *length* bytes of zeros; their address, a page boundary."""
        return self.map_memory(Memory(length, page_size), writable)

    def map_memory(self, memory: Memory, writable: bool = True, offset: int = 0, at: int | None = None) -> int:
        """Map *memory* from *offset* to its end, shared with whoever else has it; at *at*, where nothing may be."""
        size = len(memory.data) - offset
        start = -(-self.next // memory.page_size) * memory.page_size if at is None else at
        if at is None:
            self.next = start + size + PAGE_SIZE  # a hole behind each: overruns must not go unseen
        index = bisect_right(self.starts, start)
        self.starts.insert(index, start)
        self.regions.insert(index, _Region(start, size, writable, memory, offset))
        return start

    def mprotect(self, start: int, writable: bool) -> None:
        """Whether what :meth:`mmap` answered *start* for can be written from now on."""
        self.regions[self.starts.index(start)].writable = writable

    def munmap(self, start: int) -> None:
        """Unmap what :meth:`mmap` answered *start* for."""
        index = self.starts.index(start)
        del self.starts[index], self.regions[index]

    def read(self, addr: int, n: int) -> bytes:
        region = self._region(addr, n)
        at = region.offset + addr - region.start
        return bytes(region.memory.data[at : at + n])

    def read_string(self, addr: int, limit: int) -> bytes:
        region = self._region(addr, 1)
        at = region.offset + addr - region.start
        stop = region.offset + region.length
        end = region.memory.data.find(b"\0", at, min(at + limit, stop))
        if end < 0:
            raise Errno(EINVAL if at + limit <= stop else EFAULT)
        return bytes(region.memory.data[at:end])

    def write(self, addr: int, data: bytes) -> None:
        region = self._region(addr, len(data))
        if not region.writable:
            raise Errno(EFAULT)
        at = region.offset + addr - region.start
        memoryview(region.memory.data)[at : at + len(data)] = data

    def pin(self, addr: int, length: int, writable: bool) -> _Pinned:
        region = self._region(addr, length)
        if writable and not region.writable:
            raise Errno(EFAULT)
        return _Pinned(region.memory, region.offset + addr - region.start, length)

    def phys(self, addr: int) -> int:
        region = self._region(addr, 1)
        return region.memory.frames.phys(region.offset + addr - region.start, region.memory.page_size)

    def page_size(self, addr: int) -> int:
        return self._region(addr, 1).memory.page_size

    def follow_pfn(self, addr: int, length: int, writable: bool) -> _Pinned:
        raise Errno(EFAULT)  # no device memory is mapped here

    def memlock_limit(self) -> int | None:
        return self.limit

    def _region(self, addr: int, n: int) -> _Region:
        index = bisect_right(self.starts, addr) - 1
        if index < 0:
            raise Errno(EFAULT)
        region = self.regions[index]
        # A file may have been truncated since it was mapped.
        if addr + n > region.start + min(region.length, len(region.memory.data) - region.offset):
            raise Errno(EFAULT)
        return region
