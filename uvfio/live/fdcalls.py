# SPDX-License-Identifier: GPL-2.0-only
"""
System calls on an fd: ours go to the file's operations, the others to the host (a
handler answers None for that).

Region offsets that leave here carry REGION_TAG, and lose it on the way back in, so
the modelled kernel sees plain ones. Differences from Linux: ``preadv2`` flags are not
looked at.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from errno import EACCES, EBADF, EINVAL, EMFILE, ESPIPE

from uvfio.linux.kernel.fs import File, Vma
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.live import host, stat
from uvfio.live.attributes import AttributeOperations
from uvfio.live.client import LiveThread
from uvfio.live.filter import F_DUPFD_CLOEXEC, REGION_TAG
from uvfio.live.mappedmemory import MappedMemory
from uvfio.runtime.errors import Errno
from uvfio.uapi.iommufd import IOMMU_DESTROY

MAX_RW_COUNT = 0x7FFFF000
UIO_MAXIOV = 1024
PAGE_SIZE = 4096
PROT_WRITE = 2
MAP_SHARED = 1
TAG_SHIFT = 48
TAG_BITS = 0xFFFF << TAG_SHIFT

VFIO_DEVICE_GET_REGION_INFO = 0x3B6C
REGION_INFO_OFFSET = 24  # of ``offset`` in struct vfio_region_info
VFIO_DEVICE_IOEVENTFD = 0x3B74
IOEVENTFD_OFFSET = 8
NOT_AS_IT_IS = (VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_IOEVENTFD, IOMMU_DESTROY)

Handler = Callable[[LiveThread, File, tuple[int, ...]], int | None]
Mapped = Callable[[LiveThread, File, Vma], None]
Copied = Callable[[LiveThread, File], None]


class FdCalls:
    """
    The handlers, by name of the call. *mapped* hears of each mapping about to be made,
    *memory* of those of the model's memory, *copied* of each copy of an attribute's fd.
    """

    def __init__(self, mapped: Mapped, copied: Copied, memory: MappedMemory) -> None:
        self.mapped = mapped
        self.copied = copied
        self.memory = memory

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "ioctl": self.ioctl,
            "read": lambda _t, f, a: _sequential(f, _read, [(a[1], a[2])]),
            "write": lambda _t, f, a: _sequential(f, _write, [(a[1], a[2])]),
            "readv": lambda _t, f, a: _sequential(f, _read, _iovec(a)),
            "writev": lambda _t, f, a: _sequential(f, _write, _iovec(a)),
            "pread64": lambda _t, f, a: _positioned(f, _read, [(a[1], a[2])], _position(a[3])),
            "pwrite64": lambda _t, f, a: _positioned(f, _write, [(a[1], a[2])], _position(a[3])),
            "preadv": lambda _t, f, a: _positioned(f, _read, _iovec(a), _position(a[3])),
            "pwritev": lambda _t, f, a: _positioned(f, _write, _iovec(a), _position(a[3])),
            "preadv2": lambda _t, f, a: _positioned(f, _read, _iovec(a), _position(a[3])),
            "pwritev2": lambda _t, f, a: _positioned(f, _write, _iovec(a), _position(a[3])),
            "mmap": self._mmap,
            "fstat": _fstat,
            "lseek": _lseek,
            "ftruncate": _ftruncate,
            **dict.fromkeys(("dup2", "dup3"), self._dup),
            "dup": self._dup_anywhere,
            "fcntl": lambda t, f, a: self._dup_anywhere(t, f, a, a[1] & 0xFFFFFFFF == F_DUPFD_CLOEXEC),
        }

    def ioctl(self, thread: LiveThread, file: File, args: tuple[int, ...]) -> int:
        """The hot path: all but a few calls go on at once."""
        cmd, arg = args[1] & 0xFFFFFFFF, args[2]
        if cmd not in NOT_AS_IT_IS:
            return file.f_op.unlocked_ioctl(file, cmd, arg)
        if cmd == IOMMU_DESTROY:
            if file.host.vmas:
                self.memory.forget_unmapped(file)
            return file.f_op.unlocked_ioctl(file, cmd, arg)
        return _with_offset(thread, file, cmd, arg)

    def _dup_anywhere(self, thread: LiveThread, file: File, args: tuple[int, ...], cloexec: bool = False) -> int | None:
        """The copy of a file that is polled must have a number at which we see it read."""
        if not file.f_op.polled:
            self._dup(thread, file, args)
            return None
        assert thread.call is not None
        ours = -1
        try:
            ours = host.pidfd_getfd(thread.client.pidfd, args[0] & 0xFFFFFFFF)
            thread.clients.listener.add_fd(thread.call, ours, thread.free_fd(), cloexec, answer=True)
        except OSError as e:
            raise Errno(e.errno or EMFILE) from None
        finally:
            if ours >= 0:
                os.close(ours)
        thread.call.answered = True
        return 0

    def _dup(self, thread: LiveThread, file: File, _args: tuple[int, ...]) -> None:
        if isinstance(file.f_op, AttributeOperations):
            self.copied(thread, file)

    def _mmap(self, thread: LiveThread, file: File, args: tuple[int, ...]) -> int | None:
        addr, length, prot, flags, fd, offset = args
        if length == 0 or offset % PAGE_SIZE:
            return None  # the host refuses it as Linux does
        mode = file.f_flags & os.O_ACCMODE
        shared = bool(flags & MAP_SHARED)
        if mode == os.O_WRONLY or (shared and prot & PROT_WRITE and mode == os.O_RDONLY and file.f_rdev is not None):
            raise Errno(EACCES)
        vma = Vma(-(-length // PAGE_SIZE) * PAGE_SIZE, untag(offset), prot & 7, shared, addr)
        file.f_op.mmap(file, vma)
        if vma.memory is not None:
            self.memory.mapped(thread, file, fd & 0xFFFFFFFF, vma)
        else:
            self.mapped(thread, file, vma)
        return None


def _with_offset(thread: LiveThread, file: File, cmd: int, arg: int) -> int:
    """A region offset in the argument: it comes without our tag, and goes with it."""
    if cmd == VFIO_DEVICE_IOEVENTFD:
        thread.mm.strip_tag_at = arg + IOEVENTFD_OFFSET
        try:
            return file.f_op.unlocked_ioctl(file, cmd, arg)
        finally:
            thread.mm.strip_tag_at = 0
    result = file.f_op.unlocked_ioctl(file, cmd, arg)
    if result == 0:
        where = arg + REGION_INFO_OFFSET
        offset = int.from_bytes(copy_from_user(where, 8), "little")
        copy_to_user(where, (offset | REGION_TAG << TAG_SHIFT).to_bytes(8, "little"))
    return result


def _read(file: File, buf: int, count: int, pos: int) -> int:
    if file.f_flags & os.O_ACCMODE == os.O_WRONLY:
        raise Errno(EBADF)
    return file.f_op.read(file, buf, min(count, MAX_RW_COUNT), pos)


def _write(file: File, buf: int, count: int, pos: int) -> int:
    if file.f_flags & os.O_ACCMODE == os.O_RDONLY:
        raise Errno(EBADF)
    return file.f_op.write(file, buf, min(count, MAX_RW_COUNT), pos)


Transfer = Callable[[File, int, int, int], int]


def _each(file: File, transfer: Transfer, pieces: list[tuple[int, int]], pos: int) -> int:
    """One transfer after the other, as Linux does for files without ``read_iter``."""
    done = 0
    for addr, n in pieces:
        try:
            part = transfer(file, addr, n, pos + done)
        except Errno:
            if done:
                return done
            raise
        done += part
        if part != n:
            break
    return done


def _sequential(file: File, transfer: Transfer, pieces: list[tuple[int, int]]) -> int:
    done = _each(file, transfer, pieces, file.f_pos)
    if file.f_op.positions:
        file.f_pos += done
    return done


def _positioned(file: File, transfer: Transfer, pieces: list[tuple[int, int]], pos: int) -> int:
    if not file.f_op.positions:
        raise Errno(ESPIPE)
    return _each(file, transfer, pieces, pos)


def _iovec(args: tuple[int, ...]) -> list[tuple[int, int]]:
    count = args[2]
    if count > UIO_MAXIOV:
        raise Errno(EINVAL)
    return list(struct.iter_unpack("<QQ", copy_from_user(args[1], 16 * count)))


def untag(offset: int) -> int:
    """A file offset as the modelled kernel knows it."""
    return offset & ~TAG_BITS if offset >> TAG_SHIFT == REGION_TAG else offset


def _position(offset: int) -> int:
    if offset >> 63:
        raise Errno(EINVAL)
    return untag(offset)


def _fstat(thread: LiveThread, file: File, args: tuple[int, ...]) -> int:
    base = os.stat(f"/proc/{thread.tid}/fd/{args[0] & 0xFFFFFFFF}")
    copy_to_user(args[1], stat.of_file(base, file).stat())
    return 0


def _lseek(_thread: LiveThread, file: File, args: tuple[int, ...]) -> int:
    offset = args[1] - (1 << 64) if args[1] >> 63 else args[1]
    return file.f_op.llseek(file, offset, args[2] & 0xFFFFFFFF)


def _ftruncate(_thread: LiveThread, file: File, args: tuple[int, ...]) -> int:
    if isinstance(file.f_op, AttributeOperations) and args[1] == 0:
        return 0
    raise Errno(EINVAL)
