# SPDX-License-Identifier: GPL-2.0-only
"""
Calls of the host's libc that Python's ``os`` does not have.

Each raises OSError; none knows anything of what it is used for.
"""

from __future__ import annotations

import ctypes
import os
import struct

from uvfio.live.sysno import SYS

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
PR_SET_TIMERSLACK = 29

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
KCMP_FILE = 0
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5


def _syscall(name: str, *args: int | ctypes.c_void_p) -> int:
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result: int = libc.syscall(ctypes.c_long(SYS[name]), *wide)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def no_new_privs() -> None:
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")


def seccomp_listener(fprog: ctypes.Structure) -> int:
    """Put the calling thread under the filter *fprog*; the listener's fd."""
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    return _syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.c_void_p(ctypes.addressof(fprog)))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate of *fd* of another process."""
    return _syscall("pidfd_getfd", pidfd, fd, 0)


def same_file(fd: int, other: int) -> bool:
    """Are both of our fds on one open file description?"""
    try:
        return _syscall("kcmp", os.getpid(), os.getpid(), KCMP_FILE, fd, other) == 0
    except OSError:
        return False  # a host without kcmp


_capget = libc.capget
_fstatfs = libc.fstatfs
_CAPABILITY_VERSION_3 = 0x20080522


def has_capability(tid: int, capability: int) -> bool:
    """Is *capability* effective in that thread? Not in one that is gone."""
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, tid)
    data = ctypes.create_string_buffer(24)  # effective, permitted, inheritable of 32 capabilities, twice
    if _capget(header, data) != 0:
        return False
    effective: int = struct.unpack_from("<I", data, capability // 32 * 12)[0]
    return bool(effective >> capability % 32 & 1)


def fstatfs_type(fd: int) -> int:
    """The magic number of the file system that *fd* is on."""
    data = ctypes.create_string_buffer(120)
    if _fstatfs(fd, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    magic: int = struct.unpack_from("<q", data)[0]
    return magic


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def _process_vm(library: ctypes.CDLL, function: str) -> ctypes._NamedFuncPointer:
    f = library[function]
    f.restype = ctypes.c_ssize_t
    f.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    return f


_readv = _process_vm(libc, "process_vm_readv")
_writev = _process_vm(libc, "process_vm_writev")
# Neither gives up the interpreter lock nor keeps errno: half the time for a few bytes.
_quick_writev = _process_vm(ctypes.PyDLL(None), "process_vm_writev")
_IOVEC = struct.Struct("<QQ")
_IOVECS = struct.Struct("<QQQQ")


def process_vm_read(pid: int, addr: int, n: int) -> bytes:
    """What can be read of *n* bytes at *addr*; less than *n* when the rest cannot."""
    buffer = ctypes.create_string_buffer(n)
    local, remote = Iovec(ctypes.addressof(buffer), n), Iovec(addr, n)
    got = _readv(pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0)
    return buffer.raw[:got] if got > 0 else b""


def process_vm_write(pid: int, addr: int, data: bytes) -> int:
    """How many bytes were written; page protections are honoured."""
    n = len(data)
    local = Iovec(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), n)
    remote = Iovec(addr, n)
    return int(_writev(pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0))


class RemoteWriter:
    """
    :func:`process_vm_write` for one process, with buffers that are made once: this is
    in the path of nearly every ioctl. Not for several threads.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        buffer = ctypes.create_string_buffer(4096)
        self._view = memoryview(buffer).cast("B")
        self._buffer_at = ctypes.addressof(buffer)
        self._iovecs = ctypes.create_string_buffer(2 * _IOVEC.size)
        self._local_at = ctypes.addressof(self._iovecs)
        self._remote_at = self._local_at + _IOVEC.size

    def write(self, addr: int, data: bytes) -> bool:
        """False if not all of *data* could be written."""
        n = len(data)
        if n > 4096:
            return all(self.write(addr + at, data[at : at + 4096]) for at in range(0, n, 4096))
        self._view[:n] = data
        _IOVECS.pack_into(self._iovecs, 0, self._buffer_at, n, addr, n)
        return bool(_quick_writev(self.pid, self._local_at, 1, self._remote_at, 1, 0) == n)


IN_CLOEXEC = 0o2000000
IN_NONBLOCK = 0o4000
IN_CLOSE = 0x08 | 0x10


def inotify_init() -> int:
    fd: int = libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    return fd


def inotify_add_watch(inotify: int, path: str, mask: int) -> int:
    watch: int = libc.inotify_add_watch(inotify, path.encode(), mask)
    if watch < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return watch


def inotify_rm_watch(inotify: int, watch: int) -> None:
    libc.inotify_rm_watch(inotify, watch)


def set_timer_slack(nanoseconds: int) -> None:
    """How much later than asked the calling thread may be woken; 50,000 by default (prctl(2))."""
    libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(nanoseconds), 0, 0, 0)
