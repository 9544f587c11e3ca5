# SPDX-License-Identifier: GPL-2.0-only
"""
The memory of a real client: ``struct mm_struct`` for the modelled kernel.

``/proc/PID/mem`` belongs to the address space it was opened for, not to the process:
after an exec the old one reads nothing, which is how we notice. Differences from a
kernel that holds pages:

* private memory is reached through the address space, so what the client unmaps
  (or replaces) while a device may still reach it is gone for the device, too;
* a copy from user space also succeeds for memory mapped PROT_NONE;
* device memory (``follow_pfn``) must be one mapping from end to end.
"""

from __future__ import annotations

import mmap
import os
import resource
from bisect import bisect_right
from collections.abc import Callable
from errno import EFAULT, EINVAL
from typing import TYPE_CHECKING

from uvfio.linux.kernel.process import PinnedPages
from uvfio.live import bulk, host
from uvfio.live.filter import REGION_TAG
from uvfio.live.maps import mapping_at, open_mapped_file
from uvfio.runtime.errors import Errno

if TYPE_CHECKING:
    from uvfio.live.client import Client

PAGE_SIZE = 4096
TASK_SIZE = 0x7FFF_FFFF_F000
CHUNK = 1 << 20
TAG = REGION_TAG.to_bytes(2, "little")


class LiveMm:
    """An address space, until its process execs or exits."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.pid = client.pid
        self.locked_vm = 0
        self.mem = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.maps = os.open(f"/proc/{self.pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it was killed just now
            os.close(self.mem)
            raise
        self.writer = host.RemoteWriter(self.pid)
        self.shared: dict[tuple[int, int], SharedFile] = {}  # by device and inode, while something of it is pinned
        self.strip_tag_at = 0  # a region offset at this address is read without our tag

    def __repr__(self) -> str:
        return f"<mm of {self.pid}>"

    def close(self) -> None:
        """The process is gone. What is still pinned answers EFAULT from now on."""
        if self.mem >= 0:
            os.close(self.mem)
            os.close(self.maps)
        self.mem = self.maps = -1

    def read(self, addr: int, n: int) -> bytes:
        if n == 0:
            return b""
        if addr + n > TASK_SIZE:
            raise Errno(EFAULT)
        if n > CHUNK:
            # A length that is nonsense must fail before memory for all of it is had.
            return b"".join([self.read(addr + at, min(CHUNK, n - at)) for at in range(0, n, CHUNK)])
        try:
            data = os.pread(self.mem, n, addr)
            if len(data) == n:
                return self._without_tag(data, addr) if self.strip_tag_at else data
        except OSError:
            pass
        data = host.process_vm_read(self.pid, addr, n)
        if len(data) != n:
            raise Errno(EFAULT)
        try:
            self.client.new_mm()
        except (OSError, KeyError):  # killed meanwhile
            raise Errno(EFAULT) from None
        return data

    def _without_tag(self, data: bytes, addr: int) -> bytes:
        at = self.strip_tag_at + 6 - addr
        if 0 <= at <= len(data) - 2 and data[at : at + 2] == TAG:
            return data[:at] + bytes(2) + data[at + 2 :]
        return data

    def read_string(self, addr: int, limit: int) -> bytes:
        got = b""
        while len(got) < limit:
            at = addr + len(got)
            n = min(limit - len(got), PAGE_SIZE - at % PAGE_SIZE)
            chunk = self.read(at, n)
            end = chunk.find(b"\0")
            if end >= 0:
                return got + chunk[:end]
            got += chunk
        raise Errno(EINVAL)

    def write(self, addr: int, data: bytes) -> None:
        # Not through /proc/PID/mem: that would also write what is mapped read-only.
        n = len(data)
        if n and (addr + n > TASK_SIZE or not self.writer.write(addr, data)):
            raise Errno(EFAULT)

    def pin(self, addr: int, length: int, writable: bool) -> LivePages:
        """Errno EFAULT unless all of it is mapped with the rights asked for."""
        pages = LivePages(self, addr, length)
        at, end = addr, addr + length
        try:
            while at < end:
                at = self._pin_mapping(pages, at, end, writable)
        except Errno:
            pages.unpin()
            raise
        return pages

    def follow_pfn(self, addr: int, length: int, writable: bool) -> PinnedPages:
        """The registers or memory of a device that the client has mapped. Errno EFAULT."""
        found = mapping_at(self.maps, self.pid, addr) if addr < TASK_SIZE else None
        if found is None or not found.shared or addr + length > found.end or (writable and not found.writable):
            raise Errno(EFAULT)
        if not self.client.open_files.owns(found.device, found.inode):
            raise Errno(EFAULT)
        return self.client.open_files.device_memory(found.inode, found.offset + addr - found.start, length)

    def memlock_limit(self) -> int | None:
        if self.client.ipc_lock:
            return None
        try:
            soft, _hard = resource.prlimit(self.pid, resource.RLIMIT_MEMLOCK)
        except OSError:
            return None
        return None if soft == resource.RLIM_INFINITY else soft // PAGE_SIZE

    def _pin_mapping(self, pages: LivePages, at: int, end: int, writable: bool) -> int:
        if at >= TASK_SIZE:
            raise Errno(EFAULT)
        found = mapping_at(self.maps, self.pid, at)
        if found is None or not (found.writable if writable else found.readable):
            raise Errno(EFAULT)
        last = min(end, found.end)
        if found.shared and found.inode:
            if self.client.open_files.owns(found.device, found.inode):
                raise Errno(EFAULT, "registers of a device are not memory")
            key = found.device, found.inode
            shared = self.shared.get(key)
            if shared is None:
                fd = open_mapped_file(self.pid, found)
                if fd is not None:
                    shared = self.shared[key] = SharedFile(self, key, fd)
            if shared is not None:
                pages.add(at, shared, found.offset + at - found.start)
                return last
        pages.add(at, None, 0)
        return last


class SharedFile:
    """A file that the client has mapped shared; we map what is pinned of it, too."""

    def __init__(self, mm: LiveMm, key: tuple[int, int], fd: int) -> None:
        self.mm = mm
        self.key = key
        self.fd = fd
        self.users = 0
        self.view: mmap.mmap | None = None

    def bytes_at(self, offset: int, n: int) -> memoryview:
        """*n* bytes at *offset*; Errno EFAULT beyond the end of the file."""
        if self.view is None or offset + n > len(self.view):
            size = os.fstat(self.fd).st_size
            if offset + n > size:
                raise Errno(EFAULT)
            try:
                self.view = mmap.mmap(self.fd, size)
            except OSError:
                raise Errno(EFAULT) from None
        return memoryview(self.view)[offset : offset + n]

    def put(self) -> None:
        self.users -= 1
        if self.users == 0:
            os.close(self.fd)
            self.view = None
            self.mm.shared.pop(self.key, None)


class LivePages:
    """A pinned range: pieces of private memory and of shared files."""

    def __init__(self, mm: LiveMm, addr: int, length: int) -> None:
        self.mm = mm
        self.addr = addr
        self.length = length
        self.starts: list[int] = []
        self.pieces: list[tuple[SharedFile | None, int]] = []

    def add(self, addr: int, shared: SharedFile | None, offset: int) -> None:
        """From *addr* on it is memory of its own, or *shared* from *offset* on."""
        if shared is not None:
            shared.users += 1
        self.starts.append(addr)
        self.pieces.append((shared, offset))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            addr = self.addr + offset + done
            shared, at, n = self._piece(addr, len(buffer) - done)
            part = buffer[done : done + n]
            if shared is not None:
                part[:] = shared.bytes_at(at, n)
            else:
                n = self._transfer(os.preadv, bulk.read_into, part, addr)
            done += n

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        view, done = memoryview(data), 0
        while done < len(view):
            addr = self.addr + offset + done
            shared, at, n = self._piece(addr, len(view) - done)
            part = view[done : done + n]
            if shared is not None:
                shared.bytes_at(at, n)[:] = part
            else:
                n = self._transfer(os.pwritev, bulk.write_from, part, addr)
            done += n

    def unpin(self) -> None:
        for shared, _offset in self.pieces:
            if shared is not None:
                shared.put()
        self.pieces.clear()
        self.starts.clear()

    def _transfer(
        self,
        call: Callable[[int, list[memoryview], int], int],
        quick: Callable[[int, int, memoryview], bool],
        part: memoryview,
        addr: int,
    ) -> int:
        try:
            # *quick* goes by the process, and only mem knows that it is still the one that pinned.
            if len(part) >= bulk.LARGE and os.pread(self.mm.mem, 1, addr) and quick(self.mm.pid, addr, part):
                return len(part)
            n = call(self.mm.mem, [part], addr)
        except OSError:
            n = 0
        if n <= 0:
            raise Errno(EFAULT)
        return n

    def _piece(self, addr: int, n: int) -> tuple[SharedFile | None, int, int]:
        index = bisect_right(self.starts, addr) - 1
        if index < 0 or addr + n > self.addr + self.length:
            raise Errno(EFAULT)
        shared, offset = self.pieces[index]
        if index + 1 < len(self.starts):
            n = min(n, self.starts[index + 1] - addr)
        return shared, offset + addr - self.starts[index], n
