# SPDX-License-Identifier: GPL-2.0-only
"""
Where the blocks of an NVMe namespace are: a file of the host, or memory.

The host's page cache is the volatile write cache; ``flush`` is fdatasync(2).
"""

from __future__ import annotations

import ctypes
import os
import re
import weakref

from uvfio.devices.nvme_spec import UNRECOVERED_READ_ERROR, WRITE_FAULT, WRITE_PROTECTED, CommandFailed

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
ZEROES = 1 << 20  # bytes written at a time where holes cannot be punched
BLOCK_SIZES = (512, 1024, 2048, 4096)

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class NvmeNamespace:
    """
    *path* empty: memory. A file is made, or made larger, to have *size* bytes if that
    is not 0. ValueError when there can be no such namespace.
    """

    def __init__(self, path: str, size: int, block_size: int, readonly: bool) -> None:
        if block_size not in BLOCK_SIZES:
            raise ValueError(f"block must be one of {', '.join(map(str, BLOCK_SIZES))}, not {block_size}")
        self.block_size = block_size
        self.readonly = readonly
        try:
            self.fd = _open(path, size, readonly)
            length = os.fstat(self.fd).st_size
        except OSError as e:
            raise ValueError(f"the namespace must have a usable file: {path}: {e.strerror}") from None
        weakref.finalize(self, os.close, self.fd)
        self.blocks = length // block_size
        if not self.blocks or length % block_size:
            raise ValueError(f"the namespace must have a multiple of {block_size} bytes, not {length}: {path}")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            if os.preadv(self.fd, [buffer], offset) == len(buffer):
                return
        except OSError:
            pass
        raise CommandFailed(UNRECOVERED_READ_ERROR)  # also when somebody has cut the file

    def write_from(self, offset: int, data: memoryview) -> None:
        try:
            if os.pwrite(self.fd, data, offset) == len(data):
                return
        except OSError:
            pass
        raise CommandFailed(WRITE_FAULT)

    def zero(self, offset: int, length: int) -> None:
        """As zeroes; the host's disk gets the room back if its file system can do that."""
        if length == 0:
            return
        if _fallocate(self.fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, length) == 0:
            return
        zeroes = memoryview(bytes(min(length, ZEROES)))
        for at in range(offset, offset + length, ZEROES):
            self.write_from(at, zeroes[: min(ZEROES, offset + length - at)])

    def flush(self) -> None:
        try:
            os.fdatasync(self.fd)
        except OSError:
            raise CommandFailed(WRITE_FAULT) from None

    def must_be_writable(self) -> None:
        if self.readonly:
            raise CommandFailed(WRITE_PROTECTED)


def _open(path: str, size: int, readonly: bool) -> int:
    if not path:
        fd = os.memfd_create("nvme", os.MFD_CLOEXEC)
    elif readonly:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    else:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if size else 0), 0o666)
    if size > os.fstat(fd).st_size:
        os.ftruncate(fd, size)
    return fd


def parse_size(text: str) -> int:
    """``64M`` and the like. ValueError if it is none."""
    found = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if found is None:
        raise ValueError(f"size must be a number with K, M, G or T behind it, not {text!r}")
    return int(found[1]) << 10 * " KMGT".index(found[2] or " ")
