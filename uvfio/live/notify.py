# SPDX-License-Identifier: GPL-2.0-only
"""
The listener end of a seccomp filter: receive a call, answer it, add an fd.

The hot path uses ``fcntl.ioctl`` on one buffer and no ctypes. ENOENT from any of
these means that the caller died or was interrupted meanwhile; that is normal, and
the methods answer False or None for it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from errno import EINTR, ENOENT

RECV = 0xC0502100
SEND = 0xC0182101
ID_VALID = 0x40082102
ADDFD = 0x40182103
SET_FLAGS = 0x40082104

FD_SYNC_WAKE_UP = 1
RESP_CONTINUE = 1
ADDFD_SETFD = 1
ADDFD_SEND = 2

_NOTIF = struct.Struct("<QIIiIQ6Q")
_RESP = struct.Struct("<QqiI")
_ADDFD = struct.Struct("<QIIII")
_ZERO = bytes(_NOTIF.size)


class Call:
    """One system call that waits for an answer."""

    __slots__ = ("answered", "args", "id", "nr", "tid")

    def __init__(self, notif: tuple[int, ...]) -> None:
        self.id = notif[0]
        self.tid = notif[1]
        self.nr = notif[3]
        self.args = notif[6:]
        self.answered = False


class Listener:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = bytearray(_NOTIF.size)
        try:
            # Linux 6.6; without it the caller wakes up on another CPU, ten times slower.
            fcntl.ioctl(fd, SET_FLAGS, FD_SYNC_WAKE_UP)
        except OSError:
            pass

    def fileno(self) -> int:
        return self.fd

    def receive(self) -> Call | None:
        """The next call. None if its caller was killed meanwhile."""
        buffer = self._buffer
        buffer[:] = _ZERO
        try:
            fcntl.ioctl(self.fd, RECV, buffer, True)
        except OSError as e:
            if e.errno in (ENOENT, EINTR):
                return None
            raise
        return Call(_NOTIF.unpack(buffer))

    def send(self, call: Call, value: int) -> bool:
        """Answer *call* with *value*, an errno if negative. False: the caller is gone."""
        try:
            fcntl.ioctl(self.fd, SEND, _RESP.pack(call.id, value if value > 0 else 0, value if value < 0 else 0, 0))
        except OSError as e:
            if e.errno == ENOENT:
                return False
            raise
        return True

    def send_continue(self, call: Call) -> bool:
        """Let the host's kernel run *call* as if there were no filter."""
        try:
            fcntl.ioctl(self.fd, SEND, _RESP.pack(call.id, 0, 0, RESP_CONTINUE))
        except OSError as e:
            if e.errno == ENOENT:
                return False
            raise
        return True

    def valid(self, call: Call) -> bool:
        """Is the caller still waiting? What was looked up by its tid before this was its own."""
        try:
            fcntl.ioctl(self.fd, ID_VALID, struct.pack("<Q", call.id))
        except OSError as e:
            if e.errno == ENOENT:
                return False
            raise
        return True

    def add_fd(self, call: Call, fd: int, number: int | None, cloexec: bool, answer: bool) -> int | None:
        """
        Give the caller a duplicate of our *fd*, at *number* or the lowest free one.

        With *answer* the new number is the call's result, in one step. None: the
        caller is gone. OSError EMFILE, EBADF: it cannot have it (RLIMIT_NOFILE).
        """
        flags = (ADDFD_SEND if answer else 0) | (0 if number is None else ADDFD_SETFD)
        data = _ADDFD.pack(call.id, flags, fd, number or 0, os.O_CLOEXEC if cloexec else 0)
        try:
            return _ioctl_number(self.fd, ADDFD, data)
        except OSError as e:
            if e.errno == ENOENT:
                return None
            raise


def _ioctl_number(fd: int, op: int, data: bytes) -> int:
    """An ioctl whose result is a number; ``fcntl.ioctl`` tells it only for a mutable buffer."""
    return int(fcntl.ioctl(fd, op, bytearray(data), True))
