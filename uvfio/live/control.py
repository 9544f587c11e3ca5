# SPDX-License-Identifier: GPL-2.0-only
"""
The control socket: what happens to the machine from outside while a program runs.

One command a line, one line of JSON as the answer: ``list``, ``plug MODEL[@BDF]``,
``unplug BDF``. A command is a task: an unplug that waits for a client holds up its own
connection and nobody else. The path is in the client's environment (UVFIO_CONTROL).
"""

from __future__ import annotations

import json
import os
import select
import socket
from typing import Any

from uvfio.linux.kernel.kernfs import kernfs_find
from uvfio.live.loop import Loop
from uvfio.machine import Plugged, plug, unplug
from uvfio.runtime.errors import Errno

MAX_LINE = 4096


class Control:
    def __init__(self, loop: Loop, directory: str) -> None:
        self.loop = loop
        self.path = os.path.join(directory, "control")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen(8)
        self._partial: dict[socket.socket, bytes] = {}

    def start(self) -> None:
        self.loop.watch(self._socket.fileno(), select.POLLIN, lambda _events: self._accept())

    def close(self) -> None:
        for each in (self._socket, *self._partial):
            self.loop.unwatch(each.fileno())
            each.close()
        self._partial.clear()

    def _accept(self) -> None:
        connection, _addr = self._socket.accept()
        self._partial[connection] = b""
        self.loop.watch(connection.fileno(), select.POLLIN, lambda _events: self._readable(connection))

    def _readable(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(MAX_LINE)
        except ConnectionError:
            data = b""
        *lines, rest = (self._partial[connection] + data).split(b"\n")
        if not data or len(rest) > MAX_LINE:
            del self._partial[connection]
            self.loop.unwatch(connection.fileno())
            connection.close()
            return
        self._partial[connection] = rest
        for line in lines:
            answer = json.dumps(self._command(line.decode(errors="replace").split())) + "\n"
            try:
                connection.sendall(answer.encode())
            except ConnectionError:
                pass

    def _command(self, words: list[str]) -> dict[str, Any]:
        try:
            return {"ok": True, "result": self._do(words)}
        except (Errno, ValueError, KeyError) as e:
            return {"ok": False, "error": str(e)}

    def _do(self, words: list[str]) -> Any:
        match words:
            case ["list"]:
                devices = kernfs_find("/sys/bus/pci/devices")
                return sorted(devices.children) if devices is not None else []
            case ["plug", what]:
                model, _, bdf = what.partition("@")
                return plug(Plugged(model, bdf or None))[0]
            case ["unplug", bdf]:
                if kernfs_find(f"/sys/bus/pci/devices/{bdf}") is None:
                    raise ValueError(f"there is no device {bdf}")
                unplug(bdf)
                return bdf
        raise ValueError("commands: list, plug MODEL[@BDF], unplug BDF")
