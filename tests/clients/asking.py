# SPDX-License-Identifier: GPL-2.0-only
"""What ``sriov.py`` asks: the kernel under this process, or another one that is asked the same way."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any, Protocol


class Failed(Exception):
    """A system call's error, by name."""

    def __init__(self, number: int) -> None:
        super().__init__("EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode[number])


class System(Protocol):
    """One process and the kernel under it. Calls raise :class:`Failed`."""

    def write_file(self, path: str, text: str) -> None: ...
    def read_file(self, path: str) -> str: ...
    def names(self, path: str) -> list[str]: ...
    def link(self, path: str) -> str: ...
    def exists(self, path: str) -> bool: ...
    def open(self, path: str) -> int: ...
    def close(self, fd: int) -> None: ...
    def pread(self, fd: int, n: int, offset: int) -> bytes: ...
    def pwrite(self, fd: int, data: bytes, offset: int) -> int: ...

    def ioctl(self, fd: int, request: int, data: bytes | int) -> tuple[int, bytes]:
        """With a pointer to *data*, or the number: the answer, and the data as it is then."""

    def place(self, data: bytes) -> int:
        """The address of *data* in memory."""


class RealSystem:
    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
        self.placed: list[Any] = []

    def write_file(self, path: str, text: str) -> None:
        fd = _checked(os.open, path, os.O_WRONLY)
        try:
            _checked(os.write, fd, text.encode())
        finally:
            os.close(fd)

    def read_file(self, path: str) -> str:
        fd = _checked(os.open, path, os.O_RDONLY)
        try:
            return _checked(os.read, fd, 4096).decode().rstrip("\n")
        finally:
            os.close(fd)

    def names(self, path: str) -> list[str]:
        return _checked(os.listdir, path)

    def link(self, path: str) -> str:
        return _checked(os.readlink, path)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def open(self, path: str) -> int:
        return _checked(os.open, path, os.O_RDWR)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, n: int, offset: int) -> bytes:
        return _checked(os.pread, fd, n, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return _checked(os.pwrite, fd, data, offset)

    def ioctl(self, fd: int, request: int, data: bytes | int) -> tuple[int, bytes]:
        buffer = ctypes.create_string_buffer(data, len(data)) if isinstance(data, bytes) else None
        result = self.libc.ioctl(fd, request, data if buffer is None else ctypes.addressof(buffer))
        if result < 0:
            raise Failed(ctypes.get_errno())
        return result, buffer.raw if buffer is not None else b""

    def place(self, data: bytes) -> int:
        self.placed.append(ctypes.create_string_buffer(data, len(data)))
        return ctypes.addressof(self.placed[-1])


def _checked(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except OSError as error:
        raise Failed(error.errno or 0) from None
