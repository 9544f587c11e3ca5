# SPDX-License-Identifier: GPL-2.0-only
"""
User memory. Mirrors ``include/linux/uaccess.h``.

Addresses are the user's own; what stands behind them is the mm of the process on
whose behalf the current task runs. All raise Errno EFAULT on a bad address.
"""

from errno import E2BIG
from typing import TypeVar

from uvfio.runtime.errors import Errno
from uvfio.runtime.task import running
from uvfio.uapi.cstruct import CStruct

S = TypeVar("S", bound=CStruct)

PIECE = 4096


def copy_from_user(addr: int, n: int) -> bytes:
    data: bytes = running().process.mm.read(addr, n)
    return data


def copy_to_user(addr: int, data: bytes) -> None:
    running().process.mm.write(addr, data)


def clear_user(addr: int, n: int) -> None:
    """Zero *n* bytes. Those before one that cannot be written are zero then."""
    end = addr + n
    while addr < end:  # page by page: the user may claim 4 GiB
        stop = min(end, (addr | (PIECE - 1)) + 1)
        copy_to_user(addr, bytes(stop - addr))
        addr = stop


def get_user_u32(addr: int) -> int:
    return int.from_bytes(copy_from_user(addr, 4), "little")


def put_user_u32(addr: int, value: int) -> None:
    copy_to_user(addr, (value & 0xFFFFFFFF).to_bytes(4, "little"))


def copy_struct_from_user(struct: type[S], addr: int, usize: int) -> S:
    """
    Read a struct of which the user knows *usize* bytes: what it lacks is zero, and
    what it has more must be zero (Errno E2BIG). Mirrors ``copy_struct_from_user()``.
    """
    data = copy_from_user(addr, min(usize, struct.size_of))
    # Piece by piece: the user may claim 4 GiB, and the first byte that is not there ends it.
    for off in range(struct.size_of, usize, PIECE):
        if any(copy_from_user(addr + off, min(PIECE, usize - off))):
            raise Errno(E2BIG, f"{struct.__name__} must end with zeros after {struct.size_of} bytes")
    return struct.unpack(data)


def strndup_user(addr: int, limit: int) -> bytes:
    """
    The NUL-terminated string at *addr*, without the NUL. Errno EINVAL when it is
    not shorter than *limit* bytes.
    """
    data: bytes = running().process.mm.read_string(addr, limit)
    return data
