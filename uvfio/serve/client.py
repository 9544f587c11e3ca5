# SPDX-License-Identifier: GPL-2.0-only
"""
A vfio-user client as the modelled kernel sees it: a process whose memory is what the
client has mapped for DMA, and whose eventfds are those that it sent along.

Memory that came with a file is mapped here, too; any other is reached by messages.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from errno import EBADF, EFAULT, EINVAL
from typing import Any

from uvfio.linux.kernel.page_alloc import PAGE_SIZE, contiguous_in
from uvfio.linux.kernel.process import EventfdCtx, PinnedPages
from uvfio.linux.kernel.user import UserFiles, UserProcess
from uvfio.linux.kernel.user_mm import Memory, UserMm
from uvfio.live.eventfd import LiveEventfd, Poller
from uvfio.runtime.errors import Errno
from uvfio.serve.channel import MAX_DATA_XFER_SIZE, Channel
from uvfio.uapi.vfio_user import VFIO_USER_DMA_READ, VFIO_USER_DMA_WRITE, vfio_user_dma_region_access

FIRST_EVENTFD = 1 << 20  # numbers that no file of the process has


class FileMemory(Memory):
    """Memory of a file that the client sent. Errno EINVAL when it cannot be mapped."""

    def __init__(self, fd: int, offset: int, length: int, writable: bool) -> None:
        super().__init__(0)
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        try:
            self.data = mmap.mmap(fd, length, access=access, offset=offset)
        except (OSError, ValueError):
            raise Errno(EINVAL) from None


class MessageMemory(Memory):
    """Memory that only the client can reach: *addr* is what the protocol calls it."""

    def __init__(self, channel: Channel, addr: int, length: int) -> None:
        super().__init__(0)
        self.data = range(length)  # it has a length, and no bytes
        self.channel = channel
        self.addr = addr


class MessagePages:
    """A pinned part of such memory."""

    def __init__(self, memory: MessageMemory, start: int, length: int) -> None:
        self.memory = memory
        self.start = start
        self.length = length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        for at in range(0, len(buffer), MAX_DATA_XFER_SIZE):
            n = min(MAX_DATA_XFER_SIZE, len(buffer) - at)
            answer = self.memory.channel.ask(VFIO_USER_DMA_READ, self._access(offset + at, n))
            data = answer[vfio_user_dma_region_access.size_of :]
            if len(data) != n:
                raise Errno(EFAULT, f"the client must send {n} bytes, not {len(data)}")
            buffer[at : at + n] = data

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        for at in range(0, len(data), MAX_DATA_XFER_SIZE):
            part = bytes(data[at : at + MAX_DATA_XFER_SIZE])
            self.memory.channel.ask(VFIO_USER_DMA_WRITE, self._access(offset + at, len(part)) + part)

    def phys(self, offset: int) -> int:
        return self.memory.frames.phys(self.start + offset, PAGE_SIZE)

    def contiguous(self, offset: int) -> int:
        return contiguous_in(self.start + offset, PAGE_SIZE)

    def unpin(self) -> None:
        """Nothing is held."""

    def _access(self, offset: int, count: int) -> bytes:
        where = self.memory.addr + self.start + offset
        packed: bytes = vfio_user_dma_region_access(addr=where, count=count).pack()
        return packed


class ClientMm(UserMm):
    """The address space: scratch memory for calls, and what is mapped for DMA."""

    def pin(self, addr: int, length: int, writable: bool) -> Any:
        region = self._region(addr, length)
        if not isinstance(region.memory, MessageMemory):
            return super().pin(addr, length, writable)
        if writable and not region.writable:
            raise Errno(EFAULT)
        pages: PinnedPages = MessagePages(region.memory, region.offset + addr - region.start, length)
        return pages


class ClientFiles(UserFiles):
    """The files of the process, and the client's eventfds under numbers of their own."""

    def __init__(self, poller: Poller) -> None:
        super().__init__()
        self.poller = poller
        self.sent: dict[int, int] = {}  # our number: the host's

    def eventfd(self, fd: int) -> EventfdCtx:  # type: ignore[override]
        if fd not in self.sent:
            raise Errno(EBADF)
        ours = os.dup(self.sent[fd])
        if os.readlink(f"/proc/self/fd/{ours}") != "anon_inode:[eventfd]":
            os.close(ours)
            raise Errno(EINVAL)
        return LiveEventfd(ours, self.poller)


class ClientProcess(UserProcess):
    """Makes system calls for the client."""

    def __init__(self, poller: Poller) -> None:
        super().__init__("vfio-user", os.getpid())
        self.mm: ClientMm = ClientMm()
        self.files: ClientFiles = ClientFiles(poller)

    def with_eventfds(self, fds: list[int], call: Callable[[list[int]], Any]) -> Any:
        """*call* with numbers by which the kernel finds *fds*, which stay the caller's to close."""
        numbers = list(range(FIRST_EVENTFD, FIRST_EVENTFD + len(fds)))
        self.files.sent = dict(zip(numbers, fds, strict=True))
        try:
            return call(numbers)
        finally:
            self.files.sent = {}

    def call(self, fd: int, request: int, data: bytes) -> bytes:
        """An ioctl whose argument is a struct; what the kernel left there. Errno."""
        at = self.mm.mmap(len(data))
        self.mm.write(at, data)
        try:
            self.ioctl(fd, request, at)
            return self.mm.read(at, len(data))
        finally:
            self.mm.munmap(at)
