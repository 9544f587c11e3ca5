# SPDX-License-Identifier: GPL-2.0-only
"""
The control socket: what happens to the machine from outside while a program runs.

One command a line, one line of JSON as the answer; see ``COMMANDS``. A command is a
task: an unplug that waits for a client holds up its own connection and nobody else. The
path is in the client's environment (UVFIO_CONTROL), and ``uvfio ctl`` finds it.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from uvfio.devices.mdev import mdev_parents
from uvfio.linux.base.pci import PciDev, pci_host, pci_reset_function
from uvfio.live.loop import Loop
from uvfio.live.running import NoMachine, directory
from uvfio.live.status import devices
from uvfio.machine import plug, unplug
from uvfio.runtime.errors import Errno
from uvfio.topology import parse_device

MAX_LINE = 4096
COMMANDS = (
    "list",
    "status",
    "plug MODEL[@BDF][,key=value...]",
    "unplug BDF",
    "reset BDF",
    "iotlb BDF",
    "fault BDF dma [COUNT]",
    "fault BDF error",
)


class Control:
    """*status()* answers what there is; *fallback* is a directory for when there is no public one."""

    def __init__(self, loop: Loop, fallback: str, status: Callable[[], dict[str, Any]]) -> None:
        self.loop = loop
        self.status = status
        try:
            self.path = str(directory() / str(os.getpid()))
        except NoMachine:
            self.path = os.path.join(fallback, "control")
        if os.path.exists(self.path):
            os.unlink(self.path)  # of a process that had this number before us
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
        os.unlink(self.path)

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
        except (Errno, ValueError) as e:
            return {"ok": False, "error": str(e)}

    def _do(self, words: list[str]) -> Any:
        match words:
            case ["list"]:
                return devices()
            case ["status"]:
                return self.status()
            case ["plug", what]:
                return plug(parse_device(what))[0]
            case ["unplug", bdf]:
                where = bdf if bdf in mdev_parents().found else _function(bdf).bdf
                unplug(where)
                return where
            case ["reset", bdf]:
                pci_reset_function(dev := _function(bdf))
                return dev.bdf
            case ["iotlb", bdf]:
                iommu = _function(bdf).iommu
                return [line._asdict() for line in iommu.iotlb()] if iommu is not None else []
            case ["fault", bdf, "dma"]:
                return _block_dma(_function(bdf), 1)
            case ["fault", bdf, "dma", count] if count.isdigit():
                return _block_dma(_function(bdf), int(count))
            case ["fault", bdf, "error"]:
                return _report_error(_function(bdf))
        raise ValueError(f"the command must be one of: {'; '.join(COMMANDS)}")


def _function(bdf: str) -> PciDev:
    """That at ``0000:00:01.0``; ``00:01.0`` and ``01.0`` will do, as for ``setpci -s``."""
    found = pci_host().found
    dev = found.get(bdf) or found.get(f"0000:{bdf}") or found.get(f"0000:00:{bdf}")
    if dev is None:
        raise ValueError(f"there must be a device at {bdf}")
    return dev


def _block_dma(dev: PciDev, count: int) -> str:
    dev.dma_faults += count
    return dev.bdf


def _report_error(dev: PciDev) -> str:
    """The bus says that *dev* has met an error that cannot be corrected."""
    if dev.driver is None:
        raise ValueError(f"{dev.bdf} must have a driver to hear of an error")
    dev.driver.err_error_detected(dev)  # type: ignore[attr-defined]
    return dev.bdf
