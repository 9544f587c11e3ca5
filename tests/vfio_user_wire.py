# SPDX-License-Identifier: GPL-2.0-only
"""A vfio-user client for tests, written from the protocol's specification alone."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from errno import errorcode
from typing import Any

HEADER = struct.Struct("<HHIII")
REPLY, NO_REPLY, ERROR = 1, 1 << 4, 1 << 5
(VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, _IO_FDS, GET_IRQ_INFO, SET_IRQS, READ, WRITE) = range(1, 11)
DMA_READ, DMA_WRITE, RESET = 11, 12, 13


class Refused(Exception):
    """The server answered with an error; the message is its name."""


class Wire:
    """A connection. *memory* is what the server reaches by messages: address to bytes."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.next_id = 0
        self.memory: dict[int, bytearray] = {}
        self.reached = 0  # by messages

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def call(self, cmd: int, data: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> bytes:
        self.next_id += 1
        message = HEADER.pack(self.next_id, cmd, HEADER.size + len(data), flags, 0) + data
        socket.send_fds(self.socket, [message], list(fds))
        while not flags & NO_REPLY:
            msg_id, answered, kind, error, body = self._receive()
            if kind & 0xF == REPLY:
                assert (msg_id, answered) == (self.next_id, cmd)
                if kind & ERROR:
                    raise Refused(errorcode[error])
                return body
            self._serve(msg_id, answered, body)
        return b""

    def version(self, major: int = 0, minor: int = 1) -> tuple[int, int, dict[str, Any]]:
        body = self.call(VERSION, struct.pack("<HH", major, minor) + b'{"capabilities":{}}\0')
        assert body.endswith(b"\0")
        return (*struct.unpack("<HH", body[:4]), json.loads(body[4:-1]))

    def dma_map(self, addr: int, size: int, fd: int | None = None, offset: int = 0, flags: int = 3) -> None:
        data = struct.pack("<IIQQQ", 32, flags, offset, addr, size)
        self.call(DMA_MAP, data, [] if fd is None else [fd])
        if fd is None:
            self.memory[addr] = bytearray(size)

    def dma_unmap(self, addr: int, size: int, flags: int = 0) -> None:
        self.call(DMA_UNMAP, struct.pack("<IIQQ", 24, flags, addr, size))

    def info(self) -> tuple[int, ...]:
        return struct.unpack("<4I", self.call(GET_INFO, struct.pack("<4I", 16, 0, 0, 0)))

    def region_info(self, index: int) -> tuple[int, ...]:
        return struct.unpack("<4IQQ", self.call(GET_REGION_INFO, struct.pack("<4IQQ", 32, 0, index, 0, 0, 0)))

    def irq_info(self, index: int) -> tuple[int, ...]:
        return struct.unpack("<4I", self.call(GET_IRQ_INFO, struct.pack("<4I", 16, 0, index, 0)))

    def set_irqs(self, index: int, flags: int, fds: Sequence[int] = (), count: int | None = None) -> None:
        n = len(fds) if count is None else count
        self.call(SET_IRQS, struct.pack("<5I", 20, flags, index, 0, n), fds)

    def read(self, region: int, offset: int, count: int) -> bytes:
        body = self.call(READ, struct.pack("<QII", offset, region, count))
        assert struct.unpack("<QII", body[:16]) == (offset, region, len(body) - 16)
        return body[16:]

    def write(self, region: int, offset: int, data: bytes, flags: int = 0) -> None:
        self.call(WRITE, struct.pack("<QII", offset, region, len(data)) + data, flags=flags)

    def _receive(self) -> tuple[int, int, int, int, bytes]:
        header = self._exactly(HEADER.size)
        msg_id, cmd, size, flags, error = HEADER.unpack(header)
        return msg_id, cmd, flags, error, self._exactly(size - HEADER.size)

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise ConnectionError("the server has gone")
            data += part
        return data

    def _serve(self, msg_id: int, cmd: int, body: bytes) -> None:
        """The server reaches for our memory."""
        addr, count = struct.unpack("<QQ", body[:16])
        start = max(base for base in self.memory if base <= addr)
        memory, at = self.memory[start], addr - start
        self.reached += count
        if cmd == DMA_WRITE:
            memory[at : at + count] = body[16:]
        data = body[:16] + (bytes(memory[at : at + count]) if cmd == DMA_READ else b"")
        self.socket.sendall(HEADER.pack(msg_id, cmd, HEADER.size + len(data), REPLY, 0) + data)
