# SPDX-License-Identifier: GPL-2.0-only
"""
A user process that lives inside the machine, for scenarios and tests.

It makes system calls as methods: each enters the kernel code, raises Errno as the
kernel answers, and runs what was put off until the return to user space. Its memory
is in ``user_mm.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EINVAL, EMFILE, ENOENT, ESPIPE
from typing import TypeVar

from uvfio.linux.base.devtmpfs import devtmpfs_lookup
from uvfio.linux.kernel.chrdev import chrdev_open
from uvfio.linux.kernel.fs import File, FileOperations, Vma, fput, get_file, run_task_works
from uvfio.linux.kernel.page_alloc import PAGE_SIZE
from uvfio.linux.kernel.user_mm import Memory, NoMemory, UserMm
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current

T = TypeVar("T")

MAX_FDS = 1024
PROT_WRITE = 2


class Eventfd(FileOperations):
    """An eventfd made inside the machine; also its own ``struct eventfd_ctx``."""

    name = "[eventfd]"
    positions = False

    def __init__(self) -> None:
        self.count = 0
        self.watchers: list[Callable[[], None]] = []

    def signal(self, n: int = 1) -> None:
        task = current()
        task.runtime.note("eventfd_signal", self)
        task.task_works += self.add(n)  # who watches may sleep, and this may not

    def add(self, n: int) -> list[Callable[[], None]]:
        """Who watches takes all that is there, and must be called."""
        self.count = 0 if self.watchers else self.count + n
        return list(self.watchers)

    def watch(self, woken: Callable[[], None]) -> Callable[[], None]:
        self.watchers.append(woken)
        if self.count:
            woken()
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

    def memory(self, fd: int) -> Memory | NoMemory:
        operations = self.get(fd).f_op
        return operations if isinstance(operations, Memory) else NoMemory()

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
        self.vmas: dict[int, tuple[Vma, File]] = {}  # by address, what of files is mapped

    def capable(self, capability: int) -> bool:
        return self.capabilities is None or capability in self.capabilities

    def runs_guest(self) -> bool:
        return False

    def open(self, path: str, flags: int = 0) -> int:
        node = devtmpfs_lookup(path)
        if node is None:
            raise Errno(ENOENT)
        return self._call(lambda: self._install(chrdev_open(node.rdev, flags, path), flags))

    def memfd_create(self, length: int, page_size: int = PAGE_SIZE) -> int:
        """A file of *length* bytes of zeros; with a huge *page_size* as MFD_HUGETLB."""
        return self._install(File(Memory(length, page_size)), 0)

    def eventfd(self) -> int:
        return self._install(File(Eventfd()), 0)

    def eventfd_read(self, fd: int) -> int:
        """The counter, which becomes 0; never waits."""
        ctx = self.files.eventfd(fd)
        count, ctx.count = ctx.count, 0
        return count

    def eventfd_write(self, fd: int, n: int = 1) -> None:
        for woken in self.files.eventfd(fd).add(n):
            woken()

    def ioctl(self, fd: int, cmd: int, arg: int = 0) -> int:
        file = self.files.get(fd)
        return self._with(file, lambda: file.f_op.unlocked_ioctl(file, cmd, arg))

    def read(self, fd: int, n: int) -> bytes:
        file = self.files.get(fd)
        data = self._transfer_in(file, n, file.f_pos)
        file.f_pos += len(data)
        return data

    def write(self, fd: int, data: bytes) -> int:
        file = self.files.get(fd)
        done = self._transfer_out(file, data, file.f_pos)
        file.f_pos += done
        return done

    def pread(self, fd: int, n: int, offset: int) -> bytes:
        file = self.files.get(fd)
        if not file.f_op.positions:
            raise Errno(ESPIPE)
        return self._transfer_in(file, n, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        file = self.files.get(fd)
        if not file.f_op.positions:
            raise Errno(ESPIPE)
        return self._transfer_out(file, data, offset)

    def pread_at(self, fd: int, addr: int, n: int, offset: int) -> int:
        """As :meth:`pread`, into the process's memory at *addr*; how many bytes."""
        file = self.files.get(fd)
        if not file.f_op.positions:
            raise Errno(ESPIPE)
        return self._with(file, lambda: file.f_op.read(file, addr, n, offset))

    def pwrite_at(self, fd: int, addr: int, n: int, offset: int) -> int:
        """As :meth:`pwrite`, from the process's memory at *addr*."""
        file = self.files.get(fd)
        if not file.f_op.positions:
            raise Errno(ESPIPE)
        return self._with(file, lambda: file.f_op.write(file, addr, n, offset))

    def poll(self, fd: int) -> int:
        """The poll bits that hold now."""
        file = self.files.get(fd)
        return self._with(file, lambda: file.f_op.poll(file))

    def _transfer_in(self, file: File, n: int, offset: int) -> bytes:
        buf = self.mm.mmap(max(n, 1))
        try:
            got = self._with(file, lambda: file.f_op.read(file, buf, n, offset))
            return self.mm.read(buf, got)
        finally:
            self.mm.munmap(buf)

    def _transfer_out(self, file: File, data: bytes, offset: int) -> int:
        buf = self.mm.mmap(max(len(data), 1))
        try:
            self.mm.write(buf, data)
            return self._with(file, lambda: file.f_op.write(file, buf, len(data), offset))
        finally:
            self.mm.munmap(buf)

    def mmap_file(self, fd: int, length: int, offset: int, prot: int = 3, shared: bool = True) -> int:
        """
        Map a region of a file; its address. 0: its memory is not here (that of a device's
        registers), and only the answer counts.
        """
        file = self.files.get(fd)
        vma = Vma(length, offset, prot, shared)
        self._with(file, lambda: file.f_op.mmap(file, vma))
        if vma.memory is None:
            return 0
        memory = Memory(0)
        memory.data = vma.memory.data
        vma.start = self.mm.map_memory(memory, bool(prot & PROT_WRITE))
        self.vmas[vma.start] = (vma, get_file(file))
        return vma.start

    def munmap(self, start: int) -> None:
        """Unmap what :meth:`mmap_file` answered *start* for."""
        vma, file = self.vmas.pop(start)
        self.mm.munmap(start)

        def close() -> None:
            if vma.close is not None:
                vma.close()
            fput(file)

        self._call(close)

    def dup(self, fd: int) -> int:
        return self._install(get_file(self.files.get(fd)), 0)

    def close(self, fd: int) -> None:
        file = self.files.get(fd)
        del self.files.table[fd]
        self._call(lambda: fput(file))

    def exit(self) -> None:
        """Unmap files, then close everything, lowest fd first, as ``exit(2)`` does."""
        for start in sorted(self.vmas):
            self.munmap(start)
        for fd in sorted(self.files.table):
            if self.files.table.get(fd) is not None:
                self.close(fd)
        self.mm.alive = False

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
