# SPDX-License-Identifier: GPL-2.0-only
"""
The memory of a real client: ``struct mm_struct`` for the modelled kernel.

``/proc/PID/mem`` belongs to the address space it was opened for, not to the process:
after an exec the old one reads nothing, which is how we notice. Differences from a
kernel that holds pages:

* so is shared memory that no program has a file for, where we are not root: when nobody
  has it mapped any more, it is gone;
* private memory is reached through the address space, so what the client unmaps
  (or replaces) while a device may still reach it is gone for the device, too; a page of
  it is told from others by its address, and a child never shares one with its parent;
* an answer that is in the client's struct already is not written again, so that one in
  read-only memory succeeds where Linux says EFAULT;
* a copy from user space also succeeds for memory mapped PROT_NONE;
* device memory (``follow_pfn``) must be one mapping from end to end.
"""

from __future__ import annotations

import os
import resource
from bisect import bisect_right
from collections.abc import Callable
from errno import EFAULT, EINVAL
from typing import TYPE_CHECKING

from uvfio.linux.kernel.page_alloc import Frames, contiguous_in
from uvfio.linux.kernel.process import CAP_IPC_LOCK, PinnedPages
from uvfio.live import bulk, host
from uvfio.live.filter import REGION_TAG
from uvfio.live.maps import Mapping, address_of, mapping_at, open_mapped_file
from uvfio.live.sharedfile import Key, SharedFile
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
        self.pinned_vm = 0
        self.alive = True
        self.rewrites = False  # a system call for nothing
        self.frames = Frames()  # of private memory
        self.seen_frames: dict[Key, Frames] = {}  # of files that somebody has asked about
        client.open_files.shared.address_spaces.add(self)
        self.strip_tag_at = 0  # a region offset at this address is read without our tag

    def __repr__(self) -> str:
        return f"<mm of {self.pid}>"

    def close(self) -> None:
        """The process is gone. What is still pinned answers EFAULT from now on, unless others have it mapped."""
        self.client.open_files.shared.address_spaces.discard(self)
        self.alive = False
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

    def pin_file(self, shared: SharedFile, start: int, length: int) -> LivePages:
        """Part of a file, mapped or not."""
        pages = LivePages(self, start, length)
        pages.add(start, Piece(shared.frames, start, shared.page_size, shared))
        return pages

    def phys(self, addr: int) -> int:
        found = self._mapping(addr)
        if not found.shared or not found.inode:
            return self.frames.phys(addr, found.page_size)
        key = found.device, found.inode
        if self.client.open_files.owns(*key):
            raise Errno(EFAULT, "registers of a device are not memory")
        frames = self.seen_frames.get(key)
        if frames is None:
            frames = self.seen_frames[key] = self.client.open_files.shared.frames_of(key)
        return frames.phys(found.offset_of(addr), found.page_size)

    def page_size(self, addr: int) -> int:
        return self._mapping(addr).page_size

    def follow_pfn(self, addr: int, length: int, writable: bool) -> PinnedPages:
        """The registers or memory of a device that the client has mapped. Errno EFAULT."""
        found = self._mapping(addr)
        if not found.shared or addr + length > found.end or (writable and not found.writable):
            raise Errno(EFAULT)
        if not self.client.open_files.owns(found.device, found.inode):
            raise Errno(EFAULT)
        return self.client.open_files.device_memory(found.inode, found.offset_of(addr), length)

    def memlock_limit(self) -> int | None:
        if host.has_capability(self.pid, CAP_IPC_LOCK):
            return None
        try:
            soft, _hard = resource.prlimit(self.pid, resource.RLIMIT_MEMLOCK)
        except OSError:
            return None
        return None if soft == resource.RLIM_INFINITY else soft // PAGE_SIZE

    def _mapping(self, addr: int) -> Mapping:
        """Errno EFAULT when nothing is mapped there, or the process is gone."""
        found = mapping_at(self.maps, self.pid, addr) if self.maps >= 0 and addr < TASK_SIZE else None
        if found is None:
            raise Errno(EFAULT)
        return found

    def _pin_mapping(self, pages: LivePages, at: int, end: int, writable: bool) -> int:
        found = self._mapping(at)
        if not (found.writable if writable else found.readable):
            raise Errno(EFAULT)
        last = min(end, found.end)
        if found.shared and found.inode:
            if self.client.open_files.owns(found.device, found.inode):
                raise Errno(EFAULT, "registers of a device are not memory")
            key = found.device, found.inode
            files = self.client.open_files.shared
            shared = files.find(key, lambda: open_mapped_file(self.pid, found))
            offset = found.offset + at - found.start
            pages.add(at, Piece(files.frames_of(key), offset, found.page_size, shared, key))
            return last
        pages.add(at, Piece(self.frames, at, found.page_size))
        return last


class Piece:
    """Private memory, or part of *shared*; None: of the file *key*, which we could not open."""

    __slots__ = ("frames", "key", "offset", "page_size", "shared")

    def __init__(
        self, frames: Frames, offset: int, page_size: int, shared: SharedFile | None = None, key: Key | None = None
    ) -> None:
        self.frames = frames
        self.offset = offset  # in the address space or the file: where in *frames*
        self.page_size = page_size
        self.shared = shared
        self.key = key


class LivePages:
    """A pinned range: pieces of private memory and of shared files."""

    def __init__(self, mm: LiveMm, addr: int, length: int) -> None:
        self.mm = mm
        self.addr = addr
        self.length = length
        self.starts: list[int] = []
        self.pieces: list[Piece] = []  # one each

    def add(self, addr: int, piece: Piece) -> None:
        """From *addr* on it is *piece*."""
        if piece.shared is not None:
            piece.shared.get()
        self.starts.append(addr)
        self.pieces.append(piece)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            addr = self.addr + offset + done
            piece, at, n = self._piece(addr, len(buffer) - done)
            part = buffer[done : done + n]
            if piece.shared is not None:
                part[:] = piece.shared.bytes_at(at, n)
            else:
                n = self._transfer(os.preadv, bulk.read_into, part, addr, piece.key, at)
            done += n

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        view, done = memoryview(data), 0
        while done < len(view):
            addr = self.addr + offset + done
            piece, at, n = self._piece(addr, len(view) - done)
            part = view[done : done + n]
            if piece.shared is not None:
                piece.shared.store(at, part)
            else:
                n = self._transfer(os.pwritev, bulk.write_from, part, addr, piece.key, at)
            done += n

    def phys(self, offset: int) -> int:
        frames, at, page_size = self._frames(offset)
        return frames.phys(at, page_size)

    def contiguous(self, offset: int) -> int:
        _frames, at, page_size = self._frames(offset)
        return contiguous_in(at, page_size)

    def unpin(self) -> None:
        for piece in self.pieces:
            if piece.shared is not None:
                piece.shared.put()
        self.pieces.clear()
        self.starts.clear()

    def _transfer(
        self,
        call: Callable[[int, list[memoryview], int], int],
        quick: Callable[[int, int, memoryview], bool],
        part: memoryview,
        addr: int,
        key: Key | None,
        offset: int,
    ) -> int:
        try:
            # *quick* goes by the process, and only mem knows that it is still the one that pinned.
            if len(part) >= bulk.LARGE and os.pread(self.mm.mem, 1, addr) and quick(self.mm.pid, addr, part):
                return len(part)
            n = call(self.mm.mem, [part], addr)
        except OSError:
            n = 0
        if n <= 0 and key is not None:
            n = self._elsewhere(call, part, key, offset)
        if n <= 0:
            raise Errno(EFAULT)
        return n

    def _elsewhere(self, call: Callable[[int, list[memoryview], int], int], part: memoryview, key: Key, at: int) -> int:
        """The process is gone, or has unmapped it: another may still have the file mapped."""
        for mm in list(self.mm.client.open_files.shared.address_spaces):
            addr = address_of(mm.pid, key, at)
            if addr is not None:
                try:
                    return call(mm.mem, [part[: PAGE_SIZE - at % PAGE_SIZE]], addr)
                except OSError:
                    pass
        return 0

    def _frames(self, offset: int) -> tuple[Frames, int, int]:
        """Whose memory it is, where in that, and how large the page is."""
        addr = self.addr + offset
        index = bisect_right(self.starts, addr) - 1
        piece = self.pieces[index]
        return piece.frames, piece.offset + addr - self.starts[index], piece.page_size

    def _piece(self, addr: int, n: int) -> tuple[Piece, int, int]:
        """What *addr* is in, where in that, and how many of *n* bytes."""
        index = bisect_right(self.starts, addr) - 1
        if index < 0 or addr + n > self.addr + self.length:
            raise Errno(EFAULT)
        piece = self.pieces[index]
        if index + 1 < len(self.starts):
            n = min(n, self.starts[index + 1] - addr)
        return piece, piece.offset + addr - self.starts[index], n
