# SPDX-License-Identifier: GPL-2.0-only
"""
A user process that lives inside the machine, for scenarios and tests.

It makes system calls as methods: each enters the kernel code, raises Errno as the
kernel answers, and runs what was put off until the return to user space. Memory
is what :meth:`UserMm.mmap` gave; addresses start high and holes are never reused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from errno import EBADF, EFAULT, EINVAL, EMFILE, ENOENT
from typing import TypeVar

from uvfio.linux.base.devtmpfs import devtmpfs_lookup
from uvfio.linux.kernel.chrdev import chrdev_open
from uvfio.linux.kernel.fs import File, FileOperations, Vma, fput, get_file, run_task_works
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current

T = TypeVar("T")

PAGE_SIZE = 4096
FIRST_ADDRESS = 0x7F00_0000_0000
MAX_FDS = 1024


class _Region:
    """Anonymous memory of a process."""

    def __init__(self, start: int, length: int, writable: bool) -> None:
        self.start = start
        self.data = bytearray(length)
        self.writable = writable


class _Pinned:
    """Pinned pages stay what they were, whatever becomes of the mapping."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.length = len(view)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.view[offset : offset + len(buffer)]

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        self.view[offset : offset + len(data)] = data

    def unpin(self) -> None:
        self.view.release()


class UserMm:
    """The address space of a :class:`UserProcess`."""

    def __init__(self) -> None:
        self.locked_vm = 0
        self.limit: int | None = None
        self.starts: list[int] = []
        self.regions: list[_Region] = []
        self.next = FIRST_ADDRESS

    def mmap(self, length: int, writable: bool = True) -> int:
        """Map *length* bytes of zeros; their address, a page boundary."""
        start = self.next
        size = -(-length // PAGE_SIZE) * PAGE_SIZE
        self.next += size + PAGE_SIZE  # a hole behind each: overruns must not go unseen
        self.starts.append(start)
        self.regions.append(_Region(start, size, writable))
        return start

    def munmap(self, start: int) -> None:
        """Unmap what :meth:`mmap` answered *start* for."""
        index = self.starts.index(start)
        del self.starts[index], self.regions[index]

    def read(self, addr: int, n: int) -> bytes:
        region = self._region(addr, n)
        return bytes(region.data[addr - region.start : addr - region.start + n])

    def read_string(self, addr: int, limit: int) -> bytes:
        region = self._region(addr, 1)
        at = addr - region.start
        end = region.data.find(b"\0", at, at + limit)
        if end < 0:
            raise Errno(EINVAL if at + limit <= len(region.data) else EFAULT)
        return bytes(region.data[at:end])

    def write(self, addr: int, data: bytes) -> None:
        region = self._region(addr, len(data))
        if not region.writable:
            raise Errno(EFAULT)
        region.data[addr - region.start : addr - region.start + len(data)] = data

    def pin(self, addr: int, length: int, writable: bool) -> _Pinned:
        region = self._region(addr, length)
        if writable and not region.writable:
            raise Errno(EFAULT)
        at = addr - region.start
        return _Pinned(memoryview(region.data)[at : at + length])

    def follow_pfn(self, addr: int, length: int, writable: bool) -> _Pinned:
        raise Errno(EFAULT)  # no device memory is mapped here

    def memlock_limit(self) -> int | None:
        return self.limit

    def _region(self, addr: int, n: int) -> _Region:
        index = bisect_right(self.starts, addr) - 1
        if index < 0 or addr + n > self.starts[index] + len(self.regions[index].data):
            raise Errno(EFAULT)
        return self.regions[index]


class Eventfd(FileOperations):
    """An eventfd made inside the machine; also its own ``struct eventfd_ctx``."""

    name = "[eventfd]"

    def __init__(self) -> None:
        self.count = 0
        self.watchers: list[Callable[[], None]] = []

    def signal(self, n: int = 1) -> None:
        current().runtime.note("eventfd_signal", self)
        self.count += n

    def watch(self, woken: Callable[[], None]) -> Callable[[], None]:
        self.watchers.append(woken)
        return lambda: self.watchers.remove(woken)

    def put(self) -> None:
        """Nothing to do: memory of the model is Python's to free."""


class UserFiles:
    """The fd table of a :class:`UserProcess`."""

    def __init__(self) -> None:
        self.table: dict[int, File | None] = {}

    def get(self, fd: int) -> File:
        file = self.table.get(fd)
        if file is None:
            raise Errno(EBADF)
        return file

    def eventfd(self, fd: int) -> Eventfd:
        operations = self.get(fd).f_op
        if not isinstance(operations, Eventfd):
            raise Errno(EINVAL)
        return operations

    def reserve(self, flags: int) -> int:
        for fd in range(MAX_FDS):
            if fd not in self.table:
                self.table[fd] = None
                return fd
        raise Errno(EMFILE)

    def unreserve(self, fd: int) -> None:
        del self.table[fd]

    def install(self, fd: int, file: File) -> None:
        self.table[fd] = file


class UserProcess:
    """
    A process with its memory and files. Its methods are system calls and must be
    called from a task; :meth:`enter` makes the current task act for it.
    """

    def __init__(self, comm: str = "user", pid: int = 1000) -> None:
        self.comm = comm
        self.pid = pid
        self.mm = UserMm()
        self.files = UserFiles()
        self.capabilities: set[int] | None = None  # None: all

    def capable(self, capability: int) -> bool:
        return self.capabilities is None or capability in self.capabilities

    def open(self, path: str, flags: int = 0) -> int:
        node = devtmpfs_lookup(path)
        if node is None:
            raise Errno(ENOENT)
        return self._call(lambda: self._install(chrdev_open(node.rdev, flags, path), flags))

    def eventfd(self) -> int:
        return self._install(File(Eventfd()), 0)

    def eventfd_read(self, fd: int) -> int:
        """The counter, which becomes 0; never waits."""
        ctx = self.files.eventfd(fd)
        count, ctx.count = ctx.count, 0
        return count

    def eventfd_write(self, fd: int, n: int = 1) -> None:
        ctx = self.files.eventfd(fd)
        ctx.count += n
        for woken in list(ctx.watchers):
            woken()

    def ioctl(self, fd: int, cmd: int, arg: int = 0) -> int:
        file = self.files.get(fd)
        return self._with(file, lambda: file.f_op.unlocked_ioctl(file, cmd, arg))

    def pread(self, fd: int, n: int, offset: int) -> bytes:
        file = self.files.get(fd)
        buf = self.mm.mmap(max(n, 1))
        got = self._with(file, lambda: file.f_op.read(file, buf, n, offset))
        data = self.mm.read(buf, got)
        self.mm.munmap(buf)
        return data

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        file = self.files.get(fd)
        buf = self.mm.mmap(max(len(data), 1))
        self.mm.write(buf, data)
        done = self._with(file, lambda: file.f_op.write(file, buf, len(data), offset))
        self.mm.munmap(buf)
        return done

    def mmap_file(self, fd: int, length: int, offset: int, prot: int = 3, shared: bool = True) -> None:
        """Ask the file for a mapping; nothing is mapped, only the answer counts."""
        file = self.files.get(fd)
        self._with(file, lambda: file.f_op.mmap(file, Vma(length, offset, prot, shared)))

    def dup(self, fd: int) -> int:
        return self._install(get_file(self.files.get(fd)), 0)

    def close(self, fd: int) -> None:
        file = self.files.get(fd)
        del self.files.table[fd]
        self._call(lambda: fput(file))

    def exit(self) -> None:
        """Close everything, lowest fd first, as ``exit(2)`` does."""
        for fd in sorted(self.files.table):
            if self.files.table.get(fd) is not None:
                self.close(fd)

    def _install(self, file: File, flags: int) -> int:
        fd = self.files.reserve(flags)
        self.files.install(fd, file)
        return fd

    def _with(self, file: File, call: Callable[[], T]) -> T:
        """A call on *file*, which stays open until it has returned."""
        # As in fget(): another thread may close the fd first.
        if not file.f_count.inc_not_zero():
            raise Errno(EBADF)

        def body() -> T:
            try:
                return call()
            finally:
                fput(file)

        return self._call(body)

    def _call(self, call: Callable[[], T]) -> T:
        task = current()
        was, task.process = task.process, self
        try:
            return call()
        finally:
            run_task_works()
            task.process = was
