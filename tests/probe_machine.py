# SPDX-License-Identifier: GPL-2.0-only
"""
Runs a conformance probe inside the machine, without a supervisor.

The probe is a plain program that uses ``os`` and libc through its module ``u``; here both
are replaced by system calls of a UserProcess whose memory is this process's own.
"""

from __future__ import annotations

import builtins
import ctypes
import io
from errno import EFAULT, EINVAL, ENOENT
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from corpus.model import find

from uvfio.linux.kernel.kernfs import kernfs_link_target, kernfs_write
from uvfio.linux.kernel.user import Eventfd, UserProcess
from uvfio.machine import Machine, Plugged
from uvfio.runtime.errors import Errno

CONFORMANCE = Path(__file__).resolve().parents[2] / "shared" / "conformance"
FRAMES_OF_US = 1 << 50  # where the pages of this process are taken to be, by their address
FIRST_VALID = 1 << 24  # below it nothing is mapped
MAP_SHARED = 1


class HostPages:
    def __init__(self, addr: int, length: int) -> None:
        self.addr = addr
        self.length = length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = ctypes.string_at(self.addr + offset, len(buffer))

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        ctypes.memmove(self.addr + offset, bytes(data), len(data))

    def phys(self, offset: int) -> int:
        return FRAMES_OF_US + self.addr + offset

    def contiguous(self, offset: int) -> int:
        return 4096 - (self.addr + offset) % 4096

    def unpin(self) -> None:
        """Nothing was pinned."""


class HostMm:
    """The memory of this very process, as a UserMm."""

    def __init__(self) -> None:
        self.locked_vm = 0
        self.pinned_vm = 0
        self.alive = True
        self.rewrites = True
        self.maps: dict[int, Any] = {}

    def mmap(self, length: int) -> int:
        size = -(-length // 4096) * 4096
        buffer = ctypes.create_string_buffer(size + 4096)
        start = -(-ctypes.addressof(buffer) // 4096) * 4096
        self.maps[start] = (buffer, size)
        return start

    def munmap(self, start: int) -> None:
        del self.maps[start]

    def read(self, addr: int, n: int) -> bytes:
        if n and not FIRST_VALID <= addr < 1 << 47:
            raise Errno(EFAULT)
        return ctypes.string_at(addr, n)

    def read_string(self, addr: int, limit: int) -> bytes:
        if addr < FIRST_VALID:
            raise Errno(EFAULT)
        for n in range(limit):
            if ctypes.string_at(addr + n, 1) == b"\0":
                return ctypes.string_at(addr, n)
        raise Errno(EINVAL)

    def write(self, addr: int, data: bytes) -> None:
        if data and not FIRST_VALID <= addr < 1 << 47:
            raise Errno(EFAULT)
        ctypes.memmove(addr, data, len(data))

    def pin(self, addr: int, length: int, writable: bool) -> HostPages:
        if not any(start <= addr and addr + length <= start + size for start, (_, size) in self.maps.items()):
            raise Errno(EFAULT)
        return HostPages(addr, length)

    def phys(self, addr: int) -> int:
        return FRAMES_OF_US + addr

    def follow_pfn(self, addr: int, length: int, writable: bool) -> HostPages:
        raise Errno(EFAULT)

    def memlock_limit(self) -> int | None:
        return None


class ProbeOs:
    """What the probes use of ``os``."""

    O_RDWR, O_WRONLY = 2, 1
    path: Any

    def __init__(self, process: UserProcess) -> None:
        self.process = process
        self.written: dict[int, str] = {}  # sysfs files open for writing
        self.path = SimpleNamespace(
            exists=lambda path: find(path) is not None, basename=lambda path: path.rsplit("/", 1)[-1]
        )
        self.environ: dict[str, str] = {}

    def open(self, path: str, flags: int) -> int:
        if path.startswith("/sys/"):
            if find(path) is None:
                raise OSError(ENOENT, path)
            self.written[fd := 1000 + len(self.written)] = path
            return fd
        return self._call(self.process.open, path, flags)

    def close(self, fd: int) -> None:
        if fd not in self.written:
            self._call(self.process.close, fd)

    def write(self, fd: int, data: bytes) -> int:
        node = find(self.written[fd])
        assert node is not None
        return self._call(kernfs_write, node, data)

    def read(self, fd: int, n: int) -> bytes:
        operations = self.process.files.get(fd).f_op
        assert isinstance(operations, Eventfd)
        if not operations.count:
            raise OSError(EINVAL, "nothing to read")
        return self.process.eventfd_read(fd).to_bytes(8, "little")

    def pread(self, fd: int, n: int, offset: int) -> bytes:
        return self._call(self.process.pread, fd, n, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self._call(self.process.pwrite, fd, data, offset)

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        return self.process.files.get(fd).private_data.size

    def readlink(self, path: str) -> str:
        if path.startswith("/proc/"):
            return "anon_inode:[...]"
        node = find(path)
        assert node is not None
        return kernfs_link_target(node)

    def listdir(self, path: str) -> list[str]:
        node = find(path)
        assert node is not None
        return sorted(node.children)

    def popen(self, command: str) -> io.StringIO:
        return io.StringIO()

    @staticmethod
    def _call(call: Any, *args: Any) -> Any:
        try:
            return call(*args)
        except Errno as e:
            raise OSError(e.number, str(e)) from None


class Libc:
    """What the probes use of libc besides ``ioctl`` and ``mmap``."""

    memset = None

    def __init__(self, process: UserProcess) -> None:
        def eventfd(count: int, flags: int) -> int:
            return process.eventfd()

        self.eventfd = eventfd


def run_probe(name: str, machine: Machine | None = None) -> list[tuple[str, str, Any, Any]]:
    """Run the probe *name*; its claims as (file, claim, wanted, got)."""
    if machine is None:
        machine = Machine()
        machine.boot([Plugged("edu"), Plugged("pci-testdev"), Plugged("e1000e")])
    return machine.run(lambda: _run(name), name)


def _run(name: str) -> list[tuple[str, str, Any, Any]]:
    process = UserProcess()
    process.mm = HostMm()  # type: ignore[assignment]
    process.files.table.update(dict.fromkeys((0, 1, 2)))
    u = ModuleType("u")
    exec(compile((CONFORMANCE / "u.py").read_text(), "u.py", "exec"), u.__dict__)

    def raw(fd: int, request: int, arg: int) -> tuple[int, int]:
        try:
            return process.ioctl(fd, request, arg), 0
        except Errno as e:
            return -1, e.number

    def mm(n: int, prot: int = 3, flags: int = 0x21, fd: int = -1, off: int = 0, addr: int = 0) -> tuple[Any, int]:
        if fd >= 0:
            try:
                process.mmap_file(fd, n, off, prot, bool(flags & MAP_SHARED))
            except Errno as e:
                return None, e.number
        return process.mm.mmap(n), 0

    host_os = ProbeOs(process)
    u.__dict__.update(raw=raw, mm=mm, os=host_os, libc=Libc(process), sh=lambda command: "", print=lambda *args: None)
    fakes = {"u": u, "fcntl": SimpleNamespace(fcntl=lambda fd, request: 1)}

    def importer(module: str, *args: Any, **kwargs: Any) -> Any:
        return fakes.get(module) or builtins.__import__(module, *args, **kwargs)

    probe = {
        "__builtins__": {
            **vars(builtins),
            "__import__": importer,
            "open": lambda *args: io.StringIO(),
            "print": lambda *args: None,
        },
        "__name__": "__main__",
    }
    # "from u import *" takes the names from the fake module's dictionary.
    exec(compile((CONFORMANCE / f"{name}.py").read_text(), f"{name}.py", "exec"), probe)
    claims: list[tuple[str, str, Any, Any]] = u.__dict__["ALL"]
    process.exit()
    return claims
