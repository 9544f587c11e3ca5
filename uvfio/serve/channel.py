# SPDX-License-Identifier: GPL-2.0-only
"""
Messages of the vfio-user protocol over a stream socket, with file descriptors beside them.

Either side may send commands. What the client asks is done one after the other, in a
task; a reply to what we asked is taken at once, because that task may be waiting for it.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from errno import EFAULT, EINVAL

from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current
from uvfio.uapi.vfio_user import (
    VFIO_USER_F_ERROR,
    VFIO_USER_F_NO_REPLY,
    VFIO_USER_F_TYPE_COMMAND,
    VFIO_USER_F_TYPE_MASK,
    VFIO_USER_F_TYPE_REPLY,
    vfio_user_header,
)

HEADER = vfio_user_header.size_of
MAX_MSG_FDS = 8
MAX_DATA_XFER_SIZE = 1 << 20
MAX_MESSAGE = HEADER + 64 + MAX_DATA_XFER_SIZE
RECEIVE = 1 << 16


@dataclass
class Message:
    """One message that has come in; *fds* are ours to close."""

    msg_id: int
    cmd: int
    flags: int
    error_no: int
    data: bytes
    fds: list[int] = field(default_factory=list)

    @property
    def wants_reply(self) -> bool:
        return not self.flags & VFIO_USER_F_NO_REPLY

    def close(self) -> None:
        """Close what nobody has taken of *fds*."""
        while self.fds:
            os.close(self.fds.pop())


class ProtocolError(Exception):
    """The other side does not speak the protocol: there is no way on."""


class Channel:
    """One connection. *arrived()* is called when there is a command to do."""

    def __init__(self, connection: socket.socket, arrived: Callable[[], None]) -> None:
        self.socket = connection
        self.arrived = arrived
        self.commands: deque[Message] = deque()
        self.closed = False
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._replies: dict[int, Message] = {}
        self._asked: set[int] = set()
        self._next_id = 0

    def readable(self) -> None:
        """Take in what is there. Never sleeps. ProtocolError, or ``closed`` afterwards."""
        try:
            data, fds, _flags, _address = socket.recv_fds(self.socket, RECEIVE, MAX_MSG_FDS)
        except (ConnectionError, OSError):
            data, fds = b"", []
        self._fds += fds
        if not data:
            self.closed = True
            return
        self._buffer += data
        while len(self._buffer) >= HEADER:
            header = vfio_user_header.unpack(bytes(self._buffer[:HEADER]))
            if not HEADER <= header.msg_size <= MAX_MESSAGE:
                raise ProtocolError(f"a message must have {HEADER} to {MAX_MESSAGE} bytes, not {header.msg_size}")
            if len(self._buffer) < header.msg_size:
                return
            body = bytes(self._buffer[HEADER : header.msg_size])
            del self._buffer[: header.msg_size]
            # Descriptors come with the first bytes of the message that they belong to.
            fds, self._fds = self._fds, []
            self._take(Message(header.msg_id, header.cmd, header.flags, header.error_no, body, fds))

    def _take(self, message: Message) -> None:
        kind = message.flags & VFIO_USER_F_TYPE_MASK
        if kind == VFIO_USER_F_TYPE_REPLY and message.msg_id in self._asked:
            self._replies[message.msg_id] = message
        elif kind == VFIO_USER_F_TYPE_COMMAND:
            self.commands.append(message)
            self.arrived()
        else:
            message.close()

    def reply(self, to: Message, data: bytes = b"", fds: Sequence[int] = ()) -> None:
        self._send(to.msg_id, to.cmd, VFIO_USER_F_TYPE_REPLY, 0, data, fds)

    def refuse(self, to: Message, error: int) -> None:
        self._send(to.msg_id, to.cmd, VFIO_USER_F_TYPE_REPLY | VFIO_USER_F_ERROR, error, b"", ())

    def ask(self, cmd: int, data: bytes) -> bytes:
        """Send a command and wait for the answer's payload. Errno what the client says, EFAULT when it is gone."""
        self._next_id = (self._next_id + 1) & 0xFFFF
        msg_id = self._next_id
        self._asked.add(msg_id)
        self._send(msg_id, cmd, VFIO_USER_F_TYPE_COMMAND, 0, data, ())
        current().runtime.point("vfio-user reply", self, ready=lambda: msg_id in self._replies or self.closed)
        self._asked.discard(msg_id)
        answer = self._replies.pop(msg_id, None)
        if answer is None:
            raise Errno(EFAULT, "the client is gone")
        answer.close()
        if answer.flags & VFIO_USER_F_ERROR:
            raise Errno(answer.error_no or EINVAL)
        return answer.data

    def close(self) -> None:
        self.closed = True
        self.socket.close()
        for message in (*self.commands, *self._replies.values()):
            message.close()
        self.commands.clear()
        while self._fds:
            os.close(self._fds.pop())

    def _send(self, msg_id: int, cmd: int, flags: int, error: int, data: bytes, fds: Sequence[int]) -> None:
        header = vfio_user_header(msg_id=msg_id, cmd=cmd, msg_size=HEADER + len(data), flags=flags, error_no=error)
        message = memoryview(header.pack() + data)
        try:
            sent = socket.send_fds(self.socket, [message], list(fds)) if fds else self.socket.send(message)
            if sent < len(message):
                self.socket.sendall(message[sent:])
        except OSError:  # it has gone away; who reads next learns of it
            self.closed = True
