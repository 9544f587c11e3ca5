# SPDX-License-Identifier: GPL-2.0-only
"""
The user processes that the kernel serves: what it can ask of one.

Two implementations: ``uvfio/linux/kernel/user.py`` (a process that lives inside
the machine, for scenarios and tests) and ``uvfio/live/client.py`` (a real one).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from uvfio.linux.kernel.fs import File
from uvfio.runtime.task import current

CAP_SYS_RAWIO = 17
CAP_SYS_ADMIN = 21
CAP_IPC_LOCK = 14
CAP_SYS_RESOURCE = 24


class PinnedPages(Protocol):
    """A range of user memory that a device may reach until :meth:`unpin`."""

    length: int

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* from *offset* on. Errno EFAULT if the memory went away."""

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        """Store *data* at *offset*."""

    def phys(self, offset: int) -> int:
        """The physical address of the byte at *offset*; the same memory has the same in every process."""

    def contiguous(self, offset: int) -> int:
        """How many bytes from *offset* on, beyond the end perhaps, have consecutive physical addresses."""

    def unpin(self) -> None:
        """Nothing reaches it any more."""


class MemoryFile(Protocol):
    """What an fd of user space stands for, as memory that can be pinned."""

    def pin(self, start: int, length: int) -> PinnedPages:
        """``memfd_pin_folios()``. Errno EINVAL: not of shmem or hugetlbfs, or beyond its end."""

    def put(self) -> None:
        """It is not needed any more; what is pinned stays."""


class Mm(Protocol):
    """``struct mm_struct``: an address space."""

    locked_vm: int  # pages accounted as locked
    pinned_vm: int  # pages that iommufd has pinned
    alive: bool  # its process has not exited
    rewrites: bool  # also what is there already is written, so that read-only memory is noticed

    def read(self, addr: int, n: int) -> bytes:
        """Errno EFAULT unless all *n* bytes can be read."""

    def read_string(self, addr: int, limit: int) -> bytes:
        """Up to the NUL. Errno EFAULT, or EINVAL if there is none in *limit* bytes."""

    def write(self, addr: int, data: bytes) -> None:
        """Errno EFAULT unless all can be written."""

    def pin(self, addr: int, length: int, writable: bool) -> PinnedPages:
        """``pin_user_pages()``. Errno EFAULT if part of it cannot be had."""

    def phys(self, addr: int) -> int:
        """The physical address of the memory that is at *addr* now. Errno EFAULT."""

    def page_size(self, addr: int) -> int:
        """Of the page at *addr*: more than PAGE_SIZE in a hugetlb mapping. Errno EFAULT."""

    def follow_pfn(self, addr: int, length: int, writable: bool) -> PinnedPages:
        """Memory of a device that is mapped there. Errno EFAULT if that is not what it is."""

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in pages; None: no limit, or CAP_IPC_LOCK."""


class EventfdCtx(Protocol):
    """``struct eventfd_ctx``, referenced; a closed fd does not end it."""

    def signal(self, n: int = 1) -> None:
        """Add *n* to the counter. Never sleeps."""

    def watch(self, woken: Callable[[], None]) -> Callable[[], None]:
        """Call *woken()* whenever it is signalled by the user; answers how to stop."""

    def put(self) -> None:
        """Drop the reference."""


class Files(Protocol):
    """``struct files_struct``: what fd numbers stand for."""

    def get(self, fd: int) -> File:
        """Errno EBADF if *fd* is not open. A file that is not ours is one, too."""

    def memory(self, fd: int) -> MemoryFile:
        """The file behind *fd*, which stays open for it. Errno EBADF not open."""

    def eventfd(self, fd: int) -> EventfdCtx:
        """``eventfd_ctx_fdget()``: Errno EBADF not open, EINVAL not an eventfd."""

    def reserve(self, flags: int) -> int:
        """An fd number for later. Errno EMFILE."""

    def unreserve(self, fd: int) -> None:
        """It is not needed after all."""

    def install(self, fd: int, file: File) -> None:
        """*fd*, reserved, stands for *file* now and owns a reference."""


class Process(Protocol):
    """A user process."""

    pid: int
    comm: str
    mm: Mm
    files: Files

    def capable(self, capability: int) -> bool:
        """Does it have *capability* (``CAP_...``)?"""

    def runs_guest(self) -> bool:
        """Does a guest of it run on the host's processor, where no access can be trapped?"""


def capable(capability: int) -> bool:
    """Does the current process have *capability*? Kernel threads have all."""
    process: Process | None = current().process
    return process is None or process.capable(capability)


def eventfd_ctx_fdget(fd: int) -> EventfdCtx:
    ctx: EventfdCtx = current().process.files.eventfd(fd)
    return ctx
