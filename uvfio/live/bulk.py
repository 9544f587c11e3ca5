# SPDX-License-Identifier: GPL-2.0-only
"""
Large copies between us and the private memory of a client.

``/proc/PID/mem`` copies every page twice, and what the host does for each page costs
more than the copy itself: ``process_vm_readv`` from several processors at a time gets
about twice as far. It may refuse where ``/proc/PID/mem`` does not (a page that the
client has made read-only since), so the caller must have another way.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

LARGE = 1 << 20
PIECE = 4 << 20  # of one system call: the host's work for it stays in the processor's cache
MANY = 4

_libc = ctypes.CDLL(None)


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class PyBuffer(ctypes.Structure):
    """``Py_buffer``, for the address of a buffer that may be read-only."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_char * 64),
    ]


def _function(name: str) -> Callable[..., int]:
    function = _libc[name]
    function.restype = ctypes.c_ssize_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    return function


_readv = _function("process_vm_readv")
_writev = _function("process_vm_writev")


def read_into(pid: int, addr: int, buffer: memoryview) -> bool:
    """Fill *buffer* from *addr* of process *pid*; False if not all of it could be read."""
    return _copy(_readv, pid, addr, buffer)


def write_from(pid: int, addr: int, data: memoryview) -> bool:
    return _copy(_writev, pid, addr, data)


def _copy(call: Callable[..., int], pid: int, addr: int, buffer: memoryview) -> bool:
    held = PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(held), 0)
    try:
        local, length = int(held.buf), len(buffer)
        pieces = iter(range(0, length, PIECE))
        failed = threading.Event()

        def work() -> None:
            for at in pieces:
                n = min(PIECE, length - at)
                ours, theirs = Iovec(local + at, n), Iovec(addr + at, n)
                if call(pid, ctypes.addressof(ours), 1, ctypes.addressof(theirs), 1, 0) != n:
                    failed.set()

        workers = min(os.cpu_count() or 1, MANY, -(-length // PIECE))
        helpers = [threading.Thread(target=work) for _ in range(workers - 1)]
        for helper in helpers:
            helper.start()
        work()
        for helper in helpers:
            helper.join()
        return not failed.is_set()
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(held))
