# SPDX-License-Identifier: GPL-2.0-only
"""A process of the model, as the system that calls are played on."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EINVAL, EISDIR, ENOENT
from typing import TypeVar

from corpus.system import ANONYMOUS, PAGE, SHARED, Failed
from uvfio.linux.kernel.kernfs import (
    KernfsNode,
    kernfs_find,
    kernfs_fop_open,
    kernfs_link_target,
    kernfs_read,
    kernfs_write,
)
from uvfio.linux.kernel.user import UserProcess
from uvfio.linux.kernel.user_mm import Memory
from uvfio.runtime.errors import Errno

T = TypeVar("T")
HUGE = 2 << 20
REGISTERS = 0x6000_0000_0000


class ModelSystem:
    """Like ``RealSystem``; must be called from a task of a machine."""

    def __init__(self) -> None:
        self.process = UserProcess()
        self.mm = self.process.mm
        self.registers: dict[int, int] = {}  # mappings of them, and the file of each

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Errno as error:
            raise Failed(error.number) from None

    def open(self, path: str) -> int:
        return self._call(lambda: self.process.open(path))

    def close(self, fd: int) -> None:
        self.process.close(fd)

    def ioctl(self, fd: int, request: int, arg: int) -> int:
        return self._call(lambda: self.process.ioctl(fd, request, arg))

    def read(self, fd: int, addr: int, count: int) -> int:
        data = self._call(lambda: self.process.read(fd, count))
        self.poke(addr, data)
        return len(data)

    def write(self, fd: int, addr: int, count: int) -> int:
        return self._call(lambda: self.process.write(fd, self.peek(addr, count)))

    def pread(self, fd: int, addr: int, count: int, offset: int) -> int:
        return self._call(lambda: self.process.pread_at(fd, addr, count, offset))

    def pwrite(self, fd: int, addr: int, count: int, offset: int) -> int:
        return self._call(lambda: self.process.pwrite_at(fd, addr, count, offset))

    def poll(self, fd: int) -> int:
        return self._call(lambda: self.process.poll(fd))

    def count(self, fd: int) -> int:
        return self.process.eventfd_read(fd)

    def signal(self, fd: int, n: int) -> None:
        self.process.eventfd_write(fd, n)

    def rest(self) -> None:
        """Nothing is under way."""

    def next_fd(self) -> int:
        return next(fd for fd in range(2000) if fd not in self.process.files.table)

    def is_open(self, fd: int) -> bool:
        return self.process.files.table.get(fd) is not None

    def memfd(self, pages: int) -> int:
        return self.process.memfd_create(pages * PAGE)

    def eventfd(self) -> int:
        return self.process.eventfd()

    def map_memory(self, addr: int, pages: int, kind: str, fd: int) -> None:
        memory = self.process.files.memory(fd) if fd >= 0 else Memory(pages * PAGE, HUGE if kind == "huge" else PAGE)
        assert isinstance(memory, Memory)
        self.mm.map_memory(memory, at=addr)

    def unmap_memory(self, addr: int, pages: int) -> None:
        self.mm.munmap(addr)

    def read_only(self, addr: int, pages: int) -> None:
        self.mm.mprotect(addr, writable=False)

    def map_file(self, fd: int, length: int, prot: int, flags: int, offset: int) -> int:
        if self.process.files.table.get(fd) is None:
            raise Failed(EBADF)
        shared = bool(flags & SHARED) and not flags & ANONYMOUS
        addr = self._call(lambda: self.process.mmap_file(fd, length, offset, prot, shared))
        if not addr:  # registers: what is there is not seen here, but the mapping keeps its file
            addr = max(self.registers, default=REGISTERS) + PAGE
            self.registers[addr] = self.process.dup(fd)
        return addr

    def unmap_file(self, addr: int, length: int) -> None:
        if addr in self.registers:
            self.process.close(self.registers.pop(addr))
        else:
            self.process.munmap(addr)

    def peek(self, addr: int, count: int) -> bytes:
        return self.mm.read(addr, count)

    def poke(self, addr: int, data: bytes) -> None:
        self.mm.write(addr, data)

    def vm_pin(self) -> int:
        return self.mm.pinned_vm

    def vm_lck(self) -> int:
        return self.mm.locked_vm

    def read_file(self, path: str) -> bytes:
        return self._call(lambda: kernfs_read(self._node(path, write=False)))

    def write_file(self, path: str, data: bytes, offset: int = 0) -> int:
        return self._call(lambda: kernfs_write(self._node(path, write=True), data, offset))

    def read_link(self, path: str) -> str:
        node = find(path)
        if node is None:
            raise Failed(ENOENT)
        if node.kind != "link":
            raise Failed(EINVAL)
        return kernfs_link_target(node)

    def list_dir(self, path: str) -> list[str]:
        node = find(path)
        if node is None:
            raise Failed(ENOENT)
        return sorted(node.children)

    def _node(self, path: str, write: bool) -> KernfsNode:
        node = find(path)
        if node is None:
            raise Failed(ENOENT)
        if node.kind == "dir":
            raise Failed(EISDIR)
        kernfs_fop_open(node, not write, write)
        return node


def find(path: str) -> KernfsNode | None:
    """The node of sysfs at *path*, links on the way followed, the last one not."""
    node: KernfsNode | None = kernfs_find("/sys")
    for name in path.removeprefix("/sys").strip("/").split("/"):
        while node is not None and node.kind == "link":
            node = node.target
        node = node.children.get(name) if node is not None else None
    return node
