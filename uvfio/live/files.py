# SPDX-License-Identifier: GPL-2.0-only
"""
What stands for a modelled File in a client: one memfd per open file.

The client holds a real file, so dup, fork, exec, SCM_RIGHTS and mmap are the host's
business. The memfd's name is unique and tells, for an fd number of any process,
which File it is; nothing is cached that a dup2 or close could make wrong. When the
last reference in any process is gone, mappings included, the host tells us by
inotify: that is when Linux would call ``f_op->release``. There is exactly one open
file description of each memfd: clients cannot open one again through /proc (see
``paths.py``), for inotify merges equal events and could not be counted.
"""

from __future__ import annotations

import os
import secrets
import select
import struct
import threading
from collections.abc import Callable
from errno import EAGAIN, EFAULT

from uvfio.linux.kernel.fs import File, Vma
from uvfio.linux.kernel.process import PinnedPages
from uvfio.live import host
from uvfio.live.pollfile import PollFile
from uvfio.live.polling import PolledRegisters
from uvfio.live.sharedfile import SharedFiles
from uvfio.runtime.errors import Errno

_EVENT = struct.Struct("<iIII")


class OpenFile:
    """The host's side of a File (``file.host``)."""

    def __init__(self, link: str, inode: int, watch: int, content: int | None, backing: int | None = None) -> None:
        self.link = link  # what readlink of /proc/PID/fd/N shows
        self.inode = inode
        self.watch = watch
        self.content = content  # our own fd on the memfd, if what is written to it matters
        self.backing = backing  # the same for a file with registers, which have no pages there
        self.calls = 0  # handlers that work on the file now
        self.closed = False  # no client has it any more; the last of those calls drops it
        self.vmas: list[Vma] = []  # what clients may have mapped of it (mappedmemory.py)
        self.polled: PolledRegisters | None = None  # its mapped registers, if they are not trapped


class OpenFiles:
    """All Files that some client holds."""

    def __init__(self) -> None:
        self.inotify = host.inotify_init()
        self.by_link: dict[str, File] = {}
        self.by_inode: dict[int, File] = {}
        self._by_watch: dict[int, File] = {}
        self._pipes: dict[File, PollFile] = {}
        self._token = secrets.token_hex(4)
        self._serial = 0
        self._device = -1  # that memfds are on
        # What regions.py knows of device files: their size and content, and DMA to what is mapped.
        self.furnish: Callable[[File, int], bool] = lambda _file, _memfd: False
        self._lock = threading.Lock()  # of backing, which tracing threads ask for
        self.shared = SharedFiles()  # files of the host
        self.device_memory: Callable[[int, int, int], PinnedPages] = _no_device
        self.watch_pipe: Callable[[File, int], None] = lambda _file, _fd: None  # calls hung_up()

    def create(self, file: File, keep_content: bool = False) -> int:
        """
        Make the memfd of *file*, which owns a reference from now on.

        The answer is the fd to hand over, and the caller's to close. If no client has
        got a copy by then, that close is the last one and *file* is released as usual.
        """
        if file.f_op.polled:
            return self._create_pipe(file)
        self._serial += 1
        name = f"uvfio-{self._token}-{self._serial}:{file.name}"
        memfd = os.memfd_create(name, os.MFD_CLOEXEC)
        registers = self.furnish(file, memfd)
        # Hosts from 6.14 on send no events for the file that memfd_create itself made.
        path = f"/proc/self/fd/{memfd}"
        ours = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        watched = memfd if keep_content else ours
        if not keep_content and not registers:
            os.close(memfd)
        watch = host.inotify_add_watch(self.inotify, f"/proc/self/fd/{watched}", host.IN_CLOSE)
        inode = os.fstat(ours)
        self._device = inode.st_dev
        kept = memfd if keep_content else None, memfd if registers else None
        opened = OpenFile(os.readlink(f"/proc/self/fd/{ours}"), inode.st_ino, watch, *kept)
        file.host = opened
        self.by_link[opened.link] = file
        self.by_inode[opened.inode] = file
        self._by_watch[watch] = file
        return ours

    def _create_pipe(self, file: File) -> int:
        pipe = PollFile(writable=bool(file.f_op.poll(file) & select.POLLOUT))
        file.host = OpenFile(pipe.link, 0, -1, None)
        file.on_poll = pipe.changed
        self.by_link[pipe.link] = file
        self._pipes[file] = pipe
        self.watch_pipe(file, pipe.ours)
        file.poll_changed()
        return pipe.take()

    def hung_up(self, file: File) -> bool:
        """No client has the pipe of *file*. Is it ours to release now? Else the last call on it does."""
        pipe = self._pipes.pop(file)
        file.on_poll = None
        del self.by_link[pipe.link]
        pipe.close()
        file.host.closed = True
        return not file.host.calls

    def owns(self, device: int, inode: int) -> bool:
        """Is that a memfd of ours?"""
        return device == self._device and inode in self.by_inode

    def backing(self, inode: int) -> int | None:
        """From any thread: a new fd on the memfd of a device file."""
        with self._lock:
            file = self.by_inode.get(inode)
            fd = None if file is None else file.host.backing
            return None if fd is None else os.dup(fd)

    def released(self) -> list[File]:
        """Files that nobody has or uses any more, since the last call."""
        try:
            data = os.read(self.inotify, 65536)
        except OSError as e:
            if e.errno == EAGAIN:
                return []
            raise
        done: list[File] = []
        at = 0
        while at < len(data):
            watch, mask, _cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            file = self._by_watch.get(watch)
            if file is None:
                continue
            if mask & host.IN_CLOSE:
                self._forget(file)
                file.host.closed = True
                if not file.host.calls:
                    done.append(file)
        return done

    def close(self) -> None:
        os.close(self.inotify)
        for pipe in self._pipes.values():
            pipe.close()
        for file in self._by_watch.values():
            for fd in (file.host.content, file.host.backing):
                if fd is not None:
                    os.close(fd)

    def _forget(self, file: File) -> None:
        opened: OpenFile = file.host
        with self._lock:
            if opened.backing is not None:
                os.close(opened.backing)
                opened.backing = None
        del self.by_link[opened.link], self.by_inode[opened.inode], self._by_watch[opened.watch]
        host.inotify_rm_watch(self.inotify, opened.watch)


def _no_device(_inode: int, _offset: int, _length: int) -> PinnedPages:
    raise Errno(EFAULT)


def take_content(file: File) -> bytes:
    """What a client wrote into the memfd behind our back (through a copy of its fd)."""
    content = file.host.content
    if content is None:
        return b""
    file.host.content = None
    data = os.pread(content, os.fstat(content).st_size, 0)
    os.close(content)
    return data
