# SPDX-License-Identifier: GPL-2.0-only
"""
What a player asks of the system it runs on, and the real one: libc, in this process.

Runs in the reference kernel and, unchanged, as a client of ``uvfio run``. Needs root
in the reference kernel: pages are laid out so that none follows its neighbour in
physical memory, which Linux would leave to chance.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import struct
import time
from collections.abc import Iterator
from typing import Protocol

PAGE = 4096
NAMES = {35: "EDEADLK", 95: "EOPNOTSUPP"}  # errno.errorcode has other names for these, or two


class Failed(Exception):
    """A system call's error, by name."""

    def __init__(self, number: int) -> None:
        super().__init__(NAMES.get(number) or errno.errorcode.get(number, str(number)))


class System(Protocol):
    """System calls of one process, and its memory. Calls raise :class:`Failed`."""

    def open(self, path: str) -> int: ...
    def close(self, fd: int) -> None: ...
    def ioctl(self, fd: int, request: int, arg: int) -> int: ...
    def read(self, fd: int, addr: int, count: int) -> int: ...
    def write(self, fd: int, addr: int, count: int) -> int: ...

    def pread(self, fd: int, addr: int, count: int, offset: int) -> int: ...
    def pwrite(self, fd: int, addr: int, count: int, offset: int) -> int: ...

    def poll(self, fd: int) -> int:
        """What ``poll(2)`` says at once, asked for everything."""

    def count(self, fd: int) -> int:
        """The counter of an eventfd, which becomes 0; what is under way has come."""

    def signal(self, fd: int, n: int) -> None:
        """Add *n* to the counter of an eventfd."""

    def rest(self) -> None:
        """Let a device go on."""

    def next_fd(self) -> int:
        """The number that the next new file will have."""

    def is_open(self, fd: int) -> bool: ...

    def memfd(self, pages: int) -> int:
        """A memfd of that size."""

    def eventfd(self) -> int: ...

    def map_memory(self, addr: int, pages: int, kind: str, fd: int) -> None:
        """Put a buffer there: ``shared``, ``private``, ``huge``, or ``file`` (of *fd*)."""

    def unmap_memory(self, addr: int, pages: int) -> None: ...
    def read_only(self, addr: int, pages: int) -> None: ...

    def map_file(self, fd: int, length: int, prot: int, flags: int, offset: int) -> int: ...
    def unmap_file(self, addr: int, length: int) -> None: ...

    def peek(self, addr: int, count: int) -> bytes: ...
    def poke(self, addr: int, data: bytes) -> None: ...

    def vm_pin(self) -> int:
        """Pages of this process that are pinned, as ``/proc/self/status`` counts them."""

    def vm_lck(self) -> int:
        """Those that are locked."""

    def read_file(self, path: str) -> bytes:
        """All of a file of sysfs."""

    def write_file(self, path: str, data: bytes, offset: int = 0) -> int:
        """Write to a file of sysfs at once."""

    def read_link(self, path: str) -> str: ...
    def list_dir(self, path: str) -> list[str]: ...


SHARED, PRIVATE, FIXED, ANONYMOUS, HUGETLB = 1, 2, 0x10, 0x20, 0x40000
MADV_NOHUGEPAGE, MADV_DONTNEED, MADV_REMOVE = 15, 4, 9
FAILED = 2**64 - 1
POLL = 0xFFFF & ~0x100  # POLLWRNORM: uvfio's live queues have it, being sockets; Linux's do not
TAKEN = 50
PFN = (1 << 55) - 1


def load_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_ulong
    libc.ioctl.argtypes = [ctypes.c_int, word, word]
    libc.mmap.argtypes = [word, word, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mmap.restype = word
    for name in ("munmap", "mprotect", "madvise", "read", "write", "pread", "pwrite"):
        getattr(libc, name).restype = ctypes.c_long
    libc.munmap.argtypes = [word, word]
    libc.mprotect.argtypes = libc.madvise.argtypes = [word, word, ctypes.c_int]
    libc.read.argtypes = libc.write.argtypes = [ctypes.c_int, word, word]
    libc.pread.argtypes = libc.pwrite.argtypes = [ctypes.c_int, word, word, ctypes.c_long]
    return libc


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failed(error.errno or 0) from None


class RealSystem:
    """This process and the kernel under it."""

    def __init__(self, scatter: bool, settle: float = 0) -> None:
        self.settle = settle  # milliseconds that an interrupt may take
        self.libc = load_libc()
        self.spare: list[int] = []  # pages that keep a frame from being handed out again
        self.pagemap = os.open("/proc/self/pagemap", os.O_RDONLY) if scatter else -1
        self.status = os.open("/proc/self/status", os.O_RDONLY)

    def _check(self, result: int) -> int:
        if result in (-1, FAILED):
            raise Failed(ctypes.get_errno())
        return result

    def open(self, path: str) -> int:
        with _failing():
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        os.close(fd)

    def ioctl(self, fd: int, request: int, arg: int) -> int:
        return self._check(self.libc.ioctl(fd, request, arg))

    def read(self, fd: int, addr: int, count: int) -> int:
        return self._check(self.libc.read(fd, addr, count))

    def write(self, fd: int, addr: int, count: int) -> int:
        return self._check(self.libc.write(fd, addr, count))

    def pread(self, fd: int, addr: int, count: int, offset: int) -> int:
        return self._check(self.libc.pread(fd, addr, count, offset))

    def pwrite(self, fd: int, addr: int, count: int, offset: int) -> int:
        return self._check(self.libc.pwrite(fd, addr, count, offset))

    def poll(self, fd: int) -> int:
        poll = select.poll()
        poll.register(fd, POLL)
        ready = poll.poll(0)
        return ready[0][1] if ready else 0

    def count(self, fd: int) -> int:
        self.rest()
        return os.eventfd_read(fd) if self.poll(fd) & select.POLLIN else 0

    def rest(self) -> None:
        time.sleep(self.settle / 1000)

    def signal(self, fd: int, n: int) -> None:
        os.eventfd_write(fd, n)
        for _ in range(TAKEN):  # soon, if anybody takes it
            if not self.poll(fd) & select.POLLIN:
                break
            time.sleep(0.002)
        self.rest()

    def next_fd(self) -> int:
        fd = os.dup(self.status)
        os.close(fd)
        return fd

    def is_open(self, fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True

    def memfd(self, pages: int) -> int:
        fd = os.memfd_create("corpus")
        os.ftruncate(fd, pages * PAGE)
        return fd

    def eventfd(self) -> int:
        return os.eventfd(0)

    def map_memory(self, addr: int, pages: int, kind: str, fd: int) -> None:
        flags = {"shared": SHARED | ANONYMOUS, "private": PRIVATE | ANONYMOUS, "file": SHARED}.get(kind)
        if flags is None:
            flags = SHARED | ANONYMOUS | HUGETLB
        got = self._check(self.libc.mmap(addr, pages * PAGE, 3, flags | FIXED, fd, 0))
        assert got == addr
        if kind == "huge":
            ctypes.memset(addr, 0, 1)  # else the first access decides whether a page is left
            return
        self.libc.madvise(addr, pages * PAGE, MADV_NOHUGEPAGE)
        for at in range(addr, addr + pages * PAGE, PAGE):
            ctypes.memset(at, 0, 1)
        if self.pagemap >= 0:
            self._scatter(addr, pages, MADV_DONTNEED if kind == "private" else MADV_REMOVE)

    def _scatter(self, addr: int, pages: int, forget: int) -> None:
        for at in self._follows(addr, pages):
            # Whoever allocates next gets the frame just freed: let that be a spare page.
            self._check(self.libc.madvise(at, PAGE, forget))
            ctypes.memset(self._spare_page(), 0, 1)
            ctypes.memset(at, 0, 1)

    def _follows(self, addr: int, pages: int) -> Iterator[int]:
        """Pages whose frame comes right after that of the page before, again and again until there is none."""
        while True:
            frames = struct.unpack(f"{pages}Q", os.pread(self.pagemap, 8 * pages, addr // PAGE * 8))
            found = [n for n in range(1, pages) if frames[n] & PFN == (frames[n - 1] & PFN) + 1]
            if not found:
                assert all(frame & PFN for frame in frames), "must run as root: pagemap hides the frames"
                return
            yield addr + found[0] * PAGE

    def _spare_page(self) -> int:
        if not self.spare:
            start = self._check(self.libc.mmap(0, 4096 * PAGE, 3, PRIVATE | ANONYMOUS, -1, 0))
            self.libc.madvise(start, 4096 * PAGE, MADV_NOHUGEPAGE)
            self.spare = list(range(start, start + 4096 * PAGE, PAGE))
        return self.spare.pop()

    def unmap_memory(self, addr: int, pages: int) -> None:
        self._check(self.libc.munmap(addr, pages * PAGE))

    def read_only(self, addr: int, pages: int) -> None:
        self._check(self.libc.mprotect(addr, pages * PAGE, 1))

    def map_file(self, fd: int, length: int, prot: int, flags: int, offset: int) -> int:
        return self._check(self.libc.mmap(0, length, prot, flags, fd, offset))

    def unmap_file(self, addr: int, length: int) -> None:
        self._check(self.libc.munmap(addr, length))

    def peek(self, addr: int, count: int) -> bytes:
        return ctypes.string_at(addr, count)

    def poke(self, addr: int, data: bytes) -> None:
        ctypes.memmove(addr, data, len(data))

    def vm_pin(self) -> int:
        return self._pages("VmPin:")

    def vm_lck(self) -> int:
        return self._pages("VmLck:")

    def _pages(self, field: str) -> int:
        # Opened anew: uvfio answers the open of this file with its own numbers.
        with open("/proc/self/status") as status:
            return sum(int(line.split()[1]) // 4 for line in status if line.startswith(field))

    def read_file(self, path: str) -> bytes:
        with _failing(), open(path, "rb") as file:
            return file.read()

    def write_file(self, path: str, data: bytes, offset: int = 0) -> int:
        with _failing():
            fd = os.open(path, os.O_WRONLY)
        try:
            with _failing():
                return os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def read_link(self, path: str) -> str:
        with _failing():
            return os.readlink(path)

    def list_dir(self, path: str) -> list[str]:
        with _failing():
            return sorted(os.listdir(path))
