# SPDX-License-Identifier: GPL-2.0-only
"""
Which mapping of a process covers an address: PROCMAP_QUERY (Linux 6.11), or
``/proc/PID/smaps`` read line by line where the host does not have it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from errno import ENOENT, ENOTTY, ESRCH
from typing import NamedTuple

PROCMAP_QUERY = 0xC0686611
_QUERY = struct.Struct("<9Q4I2Q")
_NOTHING = (0,) * 12  # the fields that the kernel fills in
_READABLE, _WRITABLE, _SHARED = 1, 2, 8


class Mapping(NamedTuple):
    """One VMA. *inode* is 0 for anonymous private memory."""

    start: int
    end: int
    readable: bool
    writable: bool
    shared: bool
    offset: int
    inode: int
    device: int  # that the inode is on
    page_size: int

    def offset_of(self, addr: int) -> int:
        """Where in the mapped file the byte at *addr* is."""
        return self.offset + addr - self.start


def mapping_at(maps: int, pid: int, addr: int) -> Mapping | None:
    """The mapping that covers *addr*; *maps* is an fd of ``/proc/PID/maps``."""
    query = bytearray(_QUERY.pack(_QUERY.size, 0, addr, *_NOTHING))
    try:
        fcntl.ioctl(maps, PROCMAP_QUERY, query, True)
    except OSError as e:
        if e.errno in (ENOENT, ESRCH):
            return None
        if e.errno == ENOTTY:
            return _from_text(pid, addr)
        raise
    return _mapping(query)


class MapQuery:
    """
    :func:`mapping_at` for one process, with buffers that are made once. The answer is
    mostly the one before, which is then not taken apart again. Not for several threads.
    """

    def __init__(self, maps: int, pid: int) -> None:
        self.maps = maps
        self.pid = pid
        self.query = bytearray(_QUERY.size)  # for PROCMAP_QUERY
        self._answer = bytearray()
        self._found: Mapping | None = None

    def at(self, addr: int) -> Mapping | None:
        self.ask(addr)
        try:
            fcntl.ioctl(self.maps, PROCMAP_QUERY, self.query, True)
        except OSError:
            return mapping_at(self.maps, self.pid, addr)  # which knows the reasons
        return self.answer()

    def ask(self, addr: int) -> None:
        """Make ``query`` one for *addr*."""
        _QUERY.pack_into(self.query, 0, _QUERY.size, 0, addr, *_NOTHING)

    def answer(self) -> Mapping:
        """What the kernel has answered to ``query``."""
        answer = self.query[24:]
        if answer != self._answer:
            self._answer, self._found = answer, _mapping(self.query)
        assert self._found is not None
        return self._found


def _mapping(answer: bytearray) -> Mapping:
    _size, _flags, _addr, start, end, flags, page, offset, inode, major, minor = _QUERY.unpack(answer)[:11]
    rights = bool(flags & _READABLE), bool(flags & _WRITABLE), bool(flags & _SHARED)
    return Mapping(start, end, *rights, offset, inode, os.makedev(major, minor), page)


def _from_text(pid: int, addr: int) -> Mapping | None:
    """From ``smaps``, as ``maps`` does not tell the page size."""
    found: list[str] = []
    try:
        with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                words = line.split(maxsplit=5)
                if not words[0].endswith(":"):
                    start, end = (int(part, 16) for part in words[0].split("-"))
                    found = words if start <= addr < end else []
                elif found and words[0] == "KernelPageSize:":
                    start, end = (int(part, 16) for part in found[0].split("-"))
                    perms, (major, minor) = found[1], (int(part, 16) for part in found[3].split(":"))
                    where = int(found[2], 16), int(found[4]), os.makedev(major, minor)
                    rights = perms[0] == "r", perms[1] == "w", perms[3] == "s"
                    return Mapping(start, end, *rights, *where, int(words[1]) * 1024)
    except OSError:
        pass
    return None


def address_of(pid: int, key: tuple[int, int], at: int) -> int | None:
    """Where process *pid* has the byte *at* of the file *key* (device, inode) mapped."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                addresses, _perms, offset, device, inode, *_name = line.split(maxsplit=5)
                major, minor = (int(part, 16) for part in device.split(":"))
                if (os.makedev(major, minor), int(inode)) == key:
                    start, end = (int(part, 16) for part in addresses.split("-"))
                    if start <= start + at - int(offset, 16) < end:
                        return start + at - int(offset, 16)
    except OSError:
        pass
    return None


def open_mapped_file(pid: int, mapping: Mapping) -> int | None:
    """
    An fd of our own on the file behind a shared *mapping*, or None.

    ``map_files`` needs a capability that only root has; without it the file is found
    among the open ones of the process, where a program that shares memory on purpose
    still has it.
    """
    flags = os.O_CLOEXEC | (os.O_RDWR if mapping.writable else os.O_RDONLY)
    try:
        return os.open(f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}", flags)
    except OSError:
        pass
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == (mapping.device, mapping.inode):
                return os.open(path, flags)
    except OSError:
        pass
    return None
