# SPDX-License-Identifier: GPL-2.0-only
"""
Calls on containers, groups, devices and iommufds (:mod:`corpus.player` says what they look like).

An ioctl's first argument is the file that it is made on. Its dict may also have ``words``
(64-bit) and ``fds`` (32-bit) behind the struct. Values may also be ``"r6+16"``, an offset
in region 6. The numbers of groups and device nodes are not told: devices have names.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from corpus.player import Player as BasePlayer
from corpus.player import shown
from corpus.system import PAGE, System

from vfio_corpus.bench import BUS, Bench
from vfio_corpus.wire import GROUP_GET_DEVICE_FD, LAYOUTS, PLAIN

BUFFERS: dict[str, tuple[int, int, str]] = {
    "S": (0x10_0020_0000, 32, "shared"),
    "P": (0x10_0040_5000, 16, "private"),
    "R": (0x10_0080_0000, 4, "private"),
    "X": (0x10_00D0_1000, 4, "shared"),
    "A": (0x10_00D1_1000, 2, "shared"),
    "Q": (0x10_00D2_1000, 1, "file"),
    "W": (0x10_00D2_3000, 1, "file"),  # the same page as Q, where it can be written
}
REGION_SHIFT = 40
TO_HOST = 2  # the edu copies out of its buffer
WAIT = 200
WHERE = {"": "X", "ro": "Q"}
HOLE = BUFFERS["X"][0] - 5 * PAGE  # nothing is mapped there


class Player(BasePlayer):
    """Files and memory of one session; the devices are made ready for it."""

    buffers = BUFFERS
    patterned = "SPR"
    layouts = LAYOUTS

    def __init__(self, system: System, bench: Bench) -> None:
        self.bench = bench
        bench.prepare()
        self.pinned, self.locked = system.vm_pin(), system.vm_lck()
        super().__init__(system, {"argument": system.memfd(1)})
        system.read_only(BUFFERS["R"][0], BUFFERS["R"][1])
        system.read_only(BUFFERS["Q"][0], 1)

    def make(self, name: str, *args: Any) -> Any:
        if name in LAYOUTS:
            return self.ioctl(name, args[0], args[1], args[2] if len(args) > 2 else {})
        if name in PLAIN:
            return self.system.ioctl(self.fd(args[0]), PLAIN[name], args[1])
        return super().make(name, *args)

    def ioctl(self, name: str, fd: str, values: Sequence[Any], how: Mapping[str, Any]) -> Any:
        tail = b"".join(struct.pack("<Q", self.value(word) % 2**64) for word in how.get("words", ()))
        tail += b"".join(struct.pack("<i", self.value(file)) for file in how.get("fds", ()))
        answer = super().ioctl(name, fd, values, {**how, "tail": how.get("tail", "") + tail.hex()})
        if name == "GET_REGION_INFO" and isinstance(answer, list) and "offset" in answer[1]:
            answer[1]["offset"] -= self.bench.base
            if answer[1]["offset"] == values[-1]:
                del answer[1]["offset"]
        return answer

    def value(self, value: Any) -> int:
        if isinstance(value, str) and value[0] == "r" and "+" in value:
            region, _, offset = value[1:].partition("+")
            return self.at(int(region), int(offset))
        return super().value(value)

    def at(self, region: int, offset: int) -> int:
        """Where the regions of a device's file are."""
        return (self.bench.base + (region << REGION_SHIFT) + offset) % 2**63

    def returned(self, name: str, result: Any, extra: dict[str, Any], ahead: int) -> Any:
        if name == "FEATURE" and isinstance(result, int) and result > 0:
            return self.new_file(result)
        return result

    # ---- files

    def _open(self, kind: str, device: str = "") -> Any:
        if kind == "group":
            path = self.bench.group_path(device)
        elif kind == "cdev":
            path = self.bench.cdev_path(device)
        else:
            path = {"container": "/dev/vfio/vfio", "iommufd": "/dev/iommu"}[kind]
        return self.new_file(self.system.open(path))

    def _GROUP_GET_DEVICE_FD(self, fd: str, name: str, at: str = "") -> Any:
        text = name.encode() + b"\0"
        where = BUFFERS["A"][0]
        if at == "edge":  # of a hole: the end of the name is not there
            where += 2 * PAGE - len(text) // 2
            text = text[: len(text) // 2]
        self.system.poke(where, text)
        return self.new_file(self.system.ioctl(self.fd(fd), GROUP_GET_DEVICE_FD, 0 if at == "null" else where))

    def _eventfd(self, purpose: str = "") -> Any:
        """*purpose* is for who reads the calls."""
        return self.new_file(self.system.eventfd())

    def _count(self, name: str) -> Any:
        """How often an eventfd was signalled."""
        return self.system.count(self.fd(name))

    def _signal(self, name: str) -> Any:
        self.system.signal(self.fd(name), 1)
        return 0

    # ---- regions

    def _pread(self, fd: str, region: int, offset: int, count: int, at: str = "") -> Any:
        where = self._where(at)
        if at == "":
            self.system.poke(where, b"\xcc" * count)
        got = self.system.pread(self.fd(fd), where, count, self.at(region, offset))
        return [got, shown(self.system.peek(where, got))] if got and at == "" else got

    def _pwrite(self, fd: str, region: int, offset: int, data: str, at: str = "") -> Any:
        raw, where = bytes.fromhex(data), self._where(at)
        if at == "":
            self.system.poke(where, raw)
        return self.system.pwrite(self.fd(fd), where, len(raw), self.at(region, offset))

    def _where(self, at: str) -> int:
        return BUFFERS[WHERE[at]][0] if at in WHERE else HOLE

    def _mmap(self, fd: str, region: int, offset: int, length: int, prot: int, flags: int) -> Any:
        addr = self.system.map_file(self.fd(fd), length, prot, flags, self.at(region, offset))
        return self.new_view(addr, length)

    def _edu_dma(self, fd: str, iova: int, at: int, count: int, command: int) -> Any:
        """Start a copy, wait for its end: the command register then."""
        src, dst = (at, iova) if command & TO_HOST else (iova, at)
        for register, value in ((0x80, src), (0x88, dst), (0x90, count), (0x98, command)):
            self._pwrite(fd, 0, register, value.to_bytes(8, "little").hex())
        return self._until_idle(fd, 0x98)

    def _factorial(self, fd: str, n: int) -> Any:
        """The edu computes; what it says then, and whether an interrupt was asked for."""
        self._pwrite(fd, 0, 0x08, n.to_bytes(4, "little").hex())
        status = self._until_idle(fd, 0x20)
        return [self._pread(fd, 0, 0x08, 4), status]

    def _until_idle(self, fd: str, register: int) -> Any:
        """What a register of the edu shows when its lowest bit falls."""
        for _ in range(WAIT):
            answer = self._pread(fd, 0, register, 4)
            if not int(answer[1][:2], 16) & 1:
                return answer
            self.system.rest()
        return "busy"

    # ---- sysfs

    def _sysfs_read(self, device: str, name: str) -> Any:
        return self.system.read_file(f"{self.bench.sysfs(device)}/{name}").decode()

    def _sysfs_write(self, device: str, name: str, data: str) -> Any:
        return self.system.write_file(f"{self.bench.sysfs(device)}/{name}", data.encode())

    def _driver_write(self, name: str, data: str) -> Any:
        """To a file of the driver vfio-pci."""
        return self.system.write_file(f"{BUS}/drivers/vfio-pci/{name}", data.encode())

    def _drivers_probe(self, data: str) -> Any:
        return self.system.write_file(f"{BUS}/drivers_probe", data.encode())

    def _driver(self, device: str) -> Any:
        """The driver that the device is bound to."""
        return self.system.read_link(f"{self.bench.sysfs(device)}/driver").rpartition("/")[2]

    # ---- memory

    def _pages(self) -> Any:
        """Pages pinned and locked since the session began."""
        return [self.system.vm_pin() - self.pinned, self.system.vm_lck() - self.locked]
