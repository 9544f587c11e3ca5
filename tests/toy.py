# SPDX-License-Identifier: GPL-2.0-only
"""A machine with one toy character device and one sysfs directory, for tests of ``live/``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from errno import EBUSY, EINVAL, ENOTTY

from uvfio.linux.kernel.chrdev import misc_register
from uvfio.linux.kernel.fs import (
    O_CLOEXEC,
    File,
    FileOperations,
    Vma,
    anon_inode_getfile,
    fd_install,
    get_unused_fd_flags,
)
from uvfio.linux.kernel.kernfs import Attribute, kernfs_create_dir, kernfs_create_file, kernfs_create_link, kernfs_root
from uvfio.linux.kernel.process import eventfd_ctx_fdget
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.kernel.wait import Completion
from uvfio.live.supervisor import Supervisor
from uvfio.machine import Machine
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current

NULL, REVERSE, NEW_FILE, SIGNAL, WAIT, GO, DMA_XOR, CRASH = range(0x3B64, 0x3B6C)


@dataclass
class Toy(FileOperations):
    """Counts opens and releases; its ioctls are named above."""

    name: str = "[toy]"
    opened: int = 0
    released: int = 0
    mapped: list[int] = field(default_factory=list)
    go: Completion = field(default_factory=lambda: Completion("go"))

    def open(self, file: File) -> None:
        self.opened += 1

    def release(self, file: File) -> None:
        self.released += 1

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        if cmd == NULL:
            return 0
        if cmd == REVERSE:
            copy_to_user(arg, copy_from_user(arg, 8)[::-1])
        elif cmd == NEW_FILE:
            fd = get_unused_fd_flags(O_CLOEXEC)
            self.opened += 1
            fd_install(fd, anon_inode_getfile("[toy]", self, None, os.O_RDWR))
            return fd
        elif cmd == SIGNAL:
            ctx = eventfd_ctx_fdget(arg)
            ctx.signal()
            ctx.put()
        elif cmd == WAIT:
            self.go.wait_for_completion()
        elif cmd == GO:
            self.go.complete()
        elif cmd == DMA_XOR:
            pages = current().process.mm.pin(arg, 8192, writable=True)
            data = bytearray(8192)
            pages.read_into(0, memoryview(data))
            pages.write_from(0, bytes(byte ^ 0xFF for byte in data))
            pages.unpin()
        elif cmd == CRASH:
            raise ZeroDivisionError("on purpose")
        else:
            raise Errno(ENOTTY)
        return 0

    def read(self, file: File, buf: int, count: int, pos: int) -> int:
        copy_to_user(buf, pos.to_bytes(8, "little")[:count])
        return min(count, 8)

    def write(self, file: File, buf: int, count: int, pos: int) -> int:
        if copy_from_user(buf, count) == b"bad":
            raise Errno(EINVAL)
        return count

    def mmap(self, file: File, vma: Vma) -> None:
        self.mapped.append(vma.offset)


class ToyRun:
    """One machine and its supervisor; ``run`` may be used once."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.toy = Toy()
        self.stored: list[bytes] = []
        self.machine.run(self._boot)
        self.supervisor = Supervisor(self.machine)

    def run(self, *argv: str) -> int:
        try:
            return self.supervisor.run(argv)
        finally:
            self.supervisor.close()

    def _boot(self) -> None:
        misc_register("iommu", 258, self.toy, 0o660)
        pci = kernfs_create_dir(kernfs_create_dir(kernfs_root().root, "kernel"), "iommu_groups")
        kernfs_create_file(pci, Attribute("value", 0o644, lambda: "hello\n", self._store))
        kernfs_create_file(pci, Attribute("fixed", 0o444, lambda: "fixed\n"))
        below = kernfs_create_dir(pci, "below")
        kernfs_create_link(below, "up", pci)

    def _store(self, data: bytes) -> None:
        if data == b"busy":
            raise Errno(EBUSY)
        self.stored.append(data)
