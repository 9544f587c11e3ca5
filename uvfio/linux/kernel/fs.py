# SPDX-License-Identifier: GPL-2.0-only
"""
Open files. Mirrors ``fs/file_table.c``, ``fs/file.c`` and ``fs/anon_inodes.c``.

A File is one open file description, whatever fd numbers in whatever processes
stand for it; ``release`` runs once, after the last reference. A put from a user
task is deferred to its return to user space, from a kernel thread to a work item;
only :func:`__fput_sync` releases on the spot.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EINVAL, ENODEV, ENOTTY, EPERM, ESPIPE
from typing import Any

from uvfio.linux.kernel.refcount import Refcount
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current

O_CLOEXEC = 0o2000000
PROT_EXEC = 4


class Vma:
    """What ``mmap(2)`` asks for: ``struct vm_area_struct``. *offset* is in bytes."""

    def __init__(self, length: int, offset: int, prot: int, shared: bool, start: int = 0) -> None:
        self.start = start
        self.length = length
        self.offset = offset
        self.prot = prot
        self.shared = shared
        self.close: Callable[[], None] | None = None  # vm_ops->close: the mapping is gone
        self.memory: Any = None  # what is mapped, if its owner shares it: an object with a ``data``


class FileOperations:
    """``struct file_operations``. What a subclass does not define, the file refuses."""

    name = "file"
    positions = True  # FMODE_PREAD, FMODE_PWRITE: without them pread and pwrite answer ESPIPE
    polled = False  # what poll(2) says of it changes, and ``File.poll_changed`` is called then

    def open(self, file: File) -> None:
        """The device node of *file* is opened; sets ``file.private_data``."""

    def release(self, file: File) -> None:
        """The last reference is gone."""

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        raise Errno(ENOTTY)

    def read(self, file: File, buf: int, count: int, pos: int) -> int:
        """Copy up to *count* bytes at *pos* to the user address *buf*; how many."""
        raise Errno(EINVAL)

    def write(self, file: File, buf: int, count: int, pos: int) -> int:
        raise Errno(EINVAL)

    def llseek(self, file: File, offset: int, whence: int) -> int:
        """The new position."""
        raise Errno(ESPIPE)

    def mmap(self, file: File, vma: Vma) -> None:
        """Check and note a mapping about to be made."""
        path_noexec(file, vma)
        raise Errno(ENODEV)

    def poll(self, file: File) -> int:
        """The poll bits that hold now."""
        return 0


class File:
    """``struct file``."""

    def __init__(self, f_op: FileOperations, private_data: Any = None, f_flags: int = 0, name: str = "") -> None:
        self.f_op = f_op
        self.private_data = private_data
        self.f_flags = f_flags
        self.f_pos = 0
        self.f_rdev: tuple[int, int] | None = None  # (major, minor) of a device node
        self.cdev: Any = None  # the Cdev it was opened through, kept alive by it
        self.name = name or f_op.name
        self.f_count = Refcount(f"file {self.name}")
        self.released = False
        self.host: Any = None  # what the live supervisor keeps with it
        self.on_poll: Callable[[int], None] | None = None  # the live supervisor, of a file that can be polled

    def __repr__(self) -> str:
        return f"<file {self.name}>"

    def poll_changed(self) -> None:
        """What ``poll(2)`` says of the file may be another thing now."""
        if self.on_poll is not None:
            self.on_poll(self.f_op.poll(self))


def path_noexec(file: File, vma: Vma) -> None:
    """Errno EPERM: nothing that an anonymous inode has is executed."""
    if vma.prot & PROT_EXEC and file.cdev is None:
        raise Errno(EPERM)


def anon_inode_getfile(name: str, f_op: FileOperations, private_data: Any, flags: int = 0) -> File:
    """A file without a path, as ``anon_inode_getfile()``; *name* like ``[vfio-device]``."""
    file = File(f_op, private_data, flags, name)
    current().runtime.note("opened", file, "r")
    return file


def get_file(file: File) -> File:
    file.f_count.inc()
    return file


def fget(fd: int) -> File:
    """The file that *fd* of the current process stands for, referenced. Errno EBADF."""
    file: File = current().process.files.get(fd)
    # Another thread may close the fd between the look-up and the reference.
    if not file.f_count.inc_not_zero():
        raise Errno(EBADF)
    return file


def fput(file: File) -> None:
    """Drop a reference; the release, if due, comes later."""
    if not file.f_count.dec_and_test():
        return
    task = current()
    if task.process is not None:
        task.task_works.append(lambda: _release(file))
    else:
        task.runtime.spawn(lambda: _release(file), f"delayed_fput/{file.name}")


def __fput_sync(file: File) -> None:
    """Drop a reference; release here and now if it was the last."""
    if file.f_count.dec_and_test():
        _release(file)


fput_sync = __fput_sync  # the same by a name that Python does not mangle in classes


def get_unused_fd_flags(flags: int) -> int:
    """Reserve an fd number of the current process. Errno EMFILE."""
    fd: int = current().process.files.reserve(flags)
    return fd


def put_unused_fd(fd: int) -> None:
    current().process.files.unreserve(fd)


def fd_install(fd: int, file: File) -> None:
    """Make *fd* stand for *file*: from here on user space can use and close it."""
    current().runtime.point("fd_install", file)
    current().process.files.install(fd, file)


def run_task_works() -> None:
    """What was put off until the return to user space."""
    task = current()
    while task.task_works:
        task.task_works.pop(0)()


def _release(file: File) -> None:
    file.released = True
    current().runtime.note("released", file, "r")
    file.f_op.release(file)
    if file.cdev is not None:
        file.cdev.put()
