# SPDX-License-Identifier: GPL-2.0-only
"""
System calls that take a path: answered for our part of /sys and /dev, left to the
host otherwise (a handler answers None for that). Of /proc we answer what tells of
memory (``procstatus.py``), and of /lib/modules what has the modelled kernel's names.

Differences from Linux: ``chdir`` into our part answers EACCES where the client is
traced already (see ``chdir.py``); a directory opened with O_PATH can be listed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from errno import EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOTDIR, ENXIO, EOPNOTSUPP, ERANGE
from typing import TypeVar

from uvfio.linux.base.devtmpfs import DevNode
from uvfio.linux.kernel.chrdev import chrdev_open
from uvfio.linux.kernel.fs import File
from uvfio.linux.kernel.kernfs import KernfsNode
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user, strndup_user
from uvfio.live import stat
from uvfio.live.attributes import open_attribute
from uvfio.live.chdir import ERESTARTNOINTR, Redirect
from uvfio.live.client import LiveThread
from uvfio.live.modules import builtin_of
from uvfio.live.pathfile import PathOperations
from uvfio.live.paths import AT_FDCWD, Resolved, resolve
from uvfio.live.procstatus import status_of
from uvfio.live.view import MERGED, Entry, View
from uvfio.runtime.errors import Errno

PATH_MAX = 4096
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
O_PATH = 0o10000000
W_OK, X_OK = 2, 1
PAGE_SIZE = 4096
XATTR_NAME_MAX = 255
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994

T = TypeVar("T")
Handler = Callable[[LiveThread, tuple[int, ...]], int | None]


class PathCalls:
    """The handlers, by name of the call. *complain* prints a line for the user."""

    def __init__(self, view: View, complain: Callable[[str], None]) -> None:
        self.view = view
        self.complain = complain

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "open": lambda t, a: self._open(t, AT_FDCWD, a[0], a[1]),
            "creat": lambda t, a: self._open(t, AT_FDCWD, a[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC),
            "openat": lambda t, a: self._open(t, _fd(a[0]), a[1], a[2]),
            "openat2": lambda t, a: self._open(t, _fd(a[0]), a[1], int.from_bytes(copy_from_user(a[2], 8), "little")),
            "stat": lambda t, a: self._stat(t, AT_FDCWD, a[0], a[1], 0),
            "lstat": lambda t, a: self._stat(t, AT_FDCWD, a[0], a[1], AT_SYMLINK_NOFOLLOW),
            "newfstatat": lambda t, a: self._stat(t, _fd(a[0]), a[1], a[2], a[3]),
            "statx": lambda t, a: self._statx(t, _fd(a[0]), a[1], a[4], a[2]),
            "readlink": lambda t, a: self._readlink(t, AT_FDCWD, a[0], a[1], a[2]),
            "readlinkat": lambda t, a: self._readlink(t, _fd(a[0]), a[1], a[2], a[3]),
            "access": lambda t, a: self._access(t, AT_FDCWD, a[0], a[1], 0),
            "faccessat": lambda t, a: self._access(t, _fd(a[0]), a[1], a[2], 0),
            "faccessat2": lambda t, a: self._access(t, _fd(a[0]), a[1], a[2], a[3]),
            "chdir": self._chdir,
            "getcwd": self._getcwd,
            "statfs": self._statfs,
            "fstatfs": self._fstatfs,
            "getxattr": lambda t, a: self._getxattr(t, a, True),
            "lgetxattr": lambda t, a: self._getxattr(t, a, False),
            "listxattr": lambda t, a: self._listxattr(t, a, True),
            "llistxattr": lambda t, a: self._listxattr(t, a, False),
        }

    def _resolve(self, thread: LiveThread, dirfd: int, addr: int, follow: bool = True) -> Resolved:
        try:
            path = os.fsdecode(strndup_user(addr, PATH_MAX))
        except Errno as e:
            raise Errno(ENAMETOOLONG) from None if e.number == EINVAL else e
        return resolve(self.view, thread, dirfd, path, follow) if path else Resolved("")

    def _open(self, thread: LiveThread, dirfd: int, addr: int, flags: int) -> int | None:
        where = self._resolve(thread, dirfd, addr, follow=not flags & os.O_NOFOLLOW)
        if where.file is not None:
            return self._open_again(thread, where.file, flags)
        if where.path in MERGED and not flags & O_PATH and (merged := self.view.merge(where.path)):
            return self._open_mirror(thread, merged, flags)
        if where.detour:
            # Never O_PATH: such an fd cannot be put into another process.
            kept = flags & ~os.O_CREAT if not flags & O_PATH else flags & (os.O_NOFOLLOW | os.O_DIRECTORY)
            _give_fd(thread, _host(os.open, where.path, kept | os.O_CLOEXEC), flags)
            return 0
        entry = where.entry
        if entry is None:
            return self._open_host(thread, where.path, flags)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise Errno(EEXIST)
        if entry.kind == "dir":
            return self._open_mirror(thread, entry, flags)
        if flags & os.O_DIRECTORY:
            raise Errno(ENOTDIR)
        if flags & O_PATH:
            thread.give(File(PathOperations(), f_flags=flags, name=entry.path), thread.free_fd(), flags, answer=True)
            return 0
        if entry.kind == "link":
            raise Errno(ELOOP)
        return self._open_entry(thread, entry, flags)

    def _open_entry(self, thread: LiveThread, entry: Entry, flags: int) -> int:
        """A device node or an attribute."""
        if isinstance(entry.node, DevNode):
            return _open_device(thread, entry.node, flags)
        assert isinstance(entry.node, KernfsNode)
        opened = open_attribute(entry.node, flags, self.complain)
        if isinstance(opened, File):
            thread.give(opened, thread.free_fd(), flags, answer=True, keep_content=True)
        else:
            _give_content(thread, entry.node.name, opened, flags)
        return 0

    def _open_host(self, thread: LiveThread, path: str, flags: int) -> int | None:
        """A file of the host's; of those we look into two."""
        if not path.endswith(("/status", "/modules.builtin.bin")) or flags & (os.O_ACCMODE | os.O_DIRECTORY | O_PATH):
            return None
        content = status_of(path, thread.clients) if path.endswith("/status") else builtin_of(path)
        if content is None:
            return None
        _give_content(thread, os.path.basename(path), content, flags)
        return 0

    def _open_again(self, thread: LiveThread, file: File, flags: int) -> int | None:
        """/proc/PID/fd/N: what has a path is opened anew, an anonymous file has nothing to open."""
        if flags & O_PATH:
            return None
        entry = self.view.find(file.name) if file.name.startswith("/") else None
        if entry is None or entry.kind not in ("dev", "file"):
            raise Errno(ENXIO)
        return self._open_entry(thread, entry, flags)

    def _open_mirror(self, thread: LiveThread, entry: Entry, flags: int) -> int:
        if not flags & O_PATH and (flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_CREAT):
            raise Errno(EISDIR)
        fd = _host(os.open, self.view.host_path(entry.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _give_fd(thread, fd, flags)
        return 0

    def _stat(self, thread: LiveThread, dirfd: int, addr: int, buf: int, flags: int) -> int | None:
        found = self._attributes(thread, dirfd, addr, flags)
        if found is None:
            return None
        copy_to_user(buf, found.stat())
        return 0

    def _statx(self, thread: LiveThread, dirfd: int, addr: int, buf: int, flags: int) -> int | None:
        found = self._attributes(thread, dirfd, addr, flags)
        if found is None:
            return None
        copy_to_user(buf, found.statx())
        return 0

    def _attributes(self, thread: LiveThread, dirfd: int, addr: int, flags: int) -> stat.Attributes | None:
        if flags & AT_EMPTY_PATH and dirfd >= 0 and (addr == 0 or copy_from_user(addr, 1) == b"\0"):
            file = thread.file_of(dirfd)
            if file is None:
                return None
            entry = self._opened_path(file)
            if entry is not None:
                return stat.of_entry(self.view, entry)
            return stat.of_file(os.stat(f"/proc/{thread.tid}/fd/{dirfd}"), file)
        where = self._resolve(thread, dirfd, addr, follow=not flags & AT_SYMLINK_NOFOLLOW)
        if where.file is not None and not flags & AT_SYMLINK_NOFOLLOW:
            return stat.of_file(os.stat(where.path), where.file)
        if where.detour:
            return stat.of_host(_host(os.stat, where.path, follow_symlinks=not flags & AT_SYMLINK_NOFOLLOW))
        return None if where.entry is None else stat.of_entry(self.view, where.entry)

    def _opened_path(self, file: File) -> Entry | None:
        """What *file* is an O_PATH of; None if it is none."""
        return self.view.find(file.name) if isinstance(file.f_op, PathOperations) else None

    def _readlink(self, thread: LiveThread, dirfd: int, addr: int, buf: int, size: int) -> int | None:
        where = self._resolve(thread, dirfd, addr, follow=False)
        if not where.path and (file := thread.file_of(dirfd)):
            where = Resolved(file.name, self._opened_path(file))
        if where.file is not None:
            name = where.file.name
            text = name if name.startswith("/") else f"anon_inode:{name}"
        elif where.detour:
            text = _host(os.readlink, where.path)
        elif where.entry is None:
            return None
        elif where.entry.kind == "link":
            text = os.readlink(self.view.host_path(where.entry.path))
        else:
            raise Errno(EINVAL)
        if _fd(size) <= 0:
            raise Errno(EINVAL)
        data = text.encode()[:size]
        copy_to_user(buf, data)
        return len(data)

    def _access(self, thread: LiveThread, dirfd: int, addr: int, mode: int, flags: int) -> int | None:
        where = self._resolve(thread, dirfd, addr, follow=not flags & AT_SYMLINK_NOFOLLOW)
        if where.detour:
            return 0 if os.access(where.path, mode & 7) else -EACCES
        if where.entry is None:
            return None
        if mode & ~7:
            raise Errno(EINVAL)
        if mode & X_OK and where.entry.kind != "dir":
            raise Errno(EACCES)
        return 0

    def _chdir(self, thread: LiveThread, args: tuple[int, ...]) -> int | None:
        where = self._resolve(thread, AT_FDCWD, args[0])
        if where.entry is None:
            return None
        if where.entry.kind != "dir":
            raise Errno(ENOTDIR)
        assert thread.call is not None
        ours = _host(os.open, self.view.host_path(where.entry.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = thread.clients.listener.add_fd(thread.call, ours, self._fd_for_cwd(thread), cloexec=True, answer=False)
        except OSError as e:
            raise Errno(e.errno or EACCES) from None
        finally:
            os.close(ours)
        if fd is None:
            raise Errno(EACCES)
        redirect = Redirect(thread.tid, fd)
        redirect.start()
        redirect.ready.wait()
        if redirect.refused:
            raise Errno(EACCES)
        return -ERESTARTNOINTR

    def _fd_for_cwd(self, thread: LiveThread) -> int:
        """The one that an earlier chdir left, if that is what it still is."""
        fd = thread.client.cwd_fd
        try:
            if fd >= 0 and os.readlink(str(fd), dir_fd=thread.fd_dir).startswith(self.view.root):
                return fd
        except OSError:
            pass
        thread.client.cwd_fd = thread.free_fd()
        return thread.client.cwd_fd

    def _getcwd(self, thread: LiveThread, args: tuple[int, ...]) -> int | None:
        where = _host(os.readlink, f"/proc/{thread.tid}/cwd")
        seen = self.view.seen_path(where)
        if seen == where:
            return None
        data = os.fsencode(seen) + b"\0"
        if len(data) > args[1]:
            raise Errno(ERANGE)
        copy_to_user(args[0], data)
        return len(data)

    def _getxattr(self, thread: LiveThread, args: tuple[int, ...], follow: bool) -> int | None:
        where = self._resolve(thread, AT_FDCWD, args[0], follow)
        if where.detour:
            name = os.fsdecode(strndup_user(args[1], XATTR_NAME_MAX + 1))
            return _sized(_host(os.getxattr, where.path, name, follow_symlinks=follow), args[2], args[3])
        return None if where.entry is None else -EOPNOTSUPP

    def _listxattr(self, thread: LiveThread, args: tuple[int, ...], follow: bool) -> int | None:
        where = self._resolve(thread, AT_FDCWD, args[0], follow)
        if where.detour:
            names = _host(os.listxattr, where.path, follow_symlinks=follow)
            return _sized(b"".join(os.fsencode(name) + b"\0" for name in names), args[1], args[2])
        return None if where.entry is None else 0

    def _statfs(self, thread: LiveThread, args: tuple[int, ...]) -> int | None:
        where = self._resolve(thread, AT_FDCWD, args[0])
        if where.entry is None and not (where.detour and where.path.startswith("/sys")):
            return None
        return _describe_fs(where.path, args[1])

    def _fstatfs(self, thread: LiveThread, args: tuple[int, ...]) -> int | None:
        file = thread.file_of(_fd(args[0]))
        try:
            path = file.name if file is not None else os.readlink(str(_fd(args[0])), dir_fd=thread.fd_dir)
        except OSError:
            return None
        seen = self.view.seen_path(path)
        return None if file is None and seen == path else _describe_fs(seen, args[1])


def _describe_fs(path: str, buf: int) -> int:
    magic = SYSFS_MAGIC if path.startswith("/sys") else TMPFS_MAGIC
    copy_to_user(buf, struct.pack("<15q", magic, PAGE_SIZE, *[0] * 6, 255, PAGE_SIZE, *[0] * 5))
    return 0


def _sized(data: bytes, buf: int, size: int) -> int:
    """What a call answers that can be asked how much room it needs, by a *size* of 0."""
    if size and len(data) > size:
        raise Errno(ERANGE)
    if size:
        copy_to_user(buf, data)
    return len(data)


def _fd(arg: int) -> int:
    """The C int in the low half of *arg*."""
    arg &= 0xFFFFFFFF
    return arg - (1 << 32) if arg >> 31 else arg


def _host(call: Callable[..., T], *args: object, **options: object) -> T:
    """*call* to the host on the client's behalf: its error is the client's."""
    try:
        return call(*args, **options)
    except OSError as e:
        raise Errno(e.errno or EACCES) from None


def _open_device(thread: LiveThread, node: DevNode, flags: int) -> int:
    fd = thread.reserve(flags)  # first: the open may sleep, and must not be done in vain
    try:
        thread.give(chrdev_open(node.rdev, flags, node.path), fd, flags, answer=True)
    finally:
        thread.unreserve(fd)
    return 0


def _give_content(thread: LiveThread, name: str, content: bytes, flags: int) -> None:
    memfd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.write(memfd, content)
        # Opened again: a client must not be able to write to what Linux shows read-only.
        fd = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(memfd)
    _give_fd(thread, fd, flags)


def _give_fd(thread: LiveThread, fd: int, flags: int) -> None:
    """Answer the call of *thread* with a host fd of ours, at the lowest free number."""
    assert thread.call is not None
    try:
        thread.clients.listener.add_fd(thread.call, fd, None, bool(flags & os.O_CLOEXEC), answer=True)
        thread.call.answered = True
    except OSError as e:
        raise Errno(e.errno or EACCES) from None
    finally:
        os.close(fd)
