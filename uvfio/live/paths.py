# SPDX-License-Identifier: GPL-2.0-only
"""
From what a client passes as a path to what it means.

Names are followed one by one, through the host's links and ours, as the client would
see them: ``/proc/self`` is the client's, a directory fd or working directory inside
the mirror is the place that it mirrors. What ends outside of our part is left to the
host. Differences from a kernel: a client in a chroot or mount namespace of its own is
taken to see the host's tree, and one that walks out of the mirror with ``..`` in a
relative path gets the mirror's surroundings.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from errno import EBADF, ELOOP, ENOTDIR

from uvfio.linux.kernel.fs import File
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_link_target
from uvfio.live.client import LiveThread
from uvfio.live.view import Entry, View
from uvfio.runtime.errors import Errno

AT_FDCWD = -100
MAX_LINKS = 40
_FD_DIR = re.compile(r"/proc/\d+(/task/\d+)?/fd")


@dataclass(frozen=True)
class Resolved:
    """
    *entry* is ours, or *file* was named as /proc/PID/fd/N. Neither: the host's; and
    with *detour* the host itself would not find it, for the way there led through us.
    """

    path: str
    entry: Entry | None = None
    file: File | None = None
    detour: bool = False


class _Walk:
    def __init__(self, view: View, thread: LiveThread, follow: bool) -> None:
        self.view = view
        self.thread = thread
        self.follow = follow
        self.links = 0
        self.been_ours = False

    def run(self, start: str, path: str) -> Resolved:
        at = "" if path.startswith("/") or start == "/" else start
        todo = [name for name in reversed(path.split("/")) if name not in ("", ".")]
        entry: Entry | None = None
        if path.endswith(("/", "/.")) and path.strip("/"):
            todo.insert(0, ".")
        while todo:
            name = todo.pop()
            if entry is not None and entry.kind in ("file", "dev"):
                raise Errno(ENOTDIR)
            if name == ".":
                continue
            if name == "..":
                self.been_ours = self.been_ours or entry is not None
                at = at.rpartition("/")[0]
                entry = self.view.find(at) if at else None
                continue
            self.been_ours = self.been_ours or entry is not None
            below = f"{at}/{self._own_name(at, name)}"
            entry = self.view.find(below)
            if entry is None and _FD_DIR.fullmatch(at):
                return self._fd_link(below, todo)
            target = self._link(below, entry) if todo or self.follow else None
            if target is None:
                at = below
                continue
            self.links += 1
            if self.links > MAX_LINKS:
                raise Errno(ELOOP)
            self.been_ours = self.been_ours or entry is not None
            if target.startswith("/"):
                at = ""
            entry = None
            todo += [each for each in reversed(self.view.seen_path(target).split("/")) if each not in ("", ".")]
        if entry is None and at:
            entry = self.view.find(at)
        return Resolved(at or "/", entry, detour=entry is None and self.been_ours)

    def _own_name(self, at: str, name: str) -> str:
        if at == "/proc" and name == "self":
            return str(self.thread.pid)
        if at == "/proc" and name == "thread-self":
            return f"{self.thread.pid}/task/{self.thread.tid}"
        return name

    def _link(self, path: str, entry: Entry | None) -> str | None:
        if entry is None:
            try:
                return os.readlink(path)
            except OSError:
                return None
        if entry.kind != "link":
            return None
        assert isinstance(entry.node, KernfsNode)
        return kernfs_link_target(entry.node)

    def _fd_link(self, path: str, todo: list[str]) -> Resolved:
        try:
            target = os.readlink(path)
        except OSError:
            return Resolved(path)
        if todo and target.startswith("/"):
            return self.run("/", "/".join([self.view.seen_path(target), *reversed(todo)]))
        file = self.thread.clients.open_files.by_link.get(target)
        if file is None and self.follow and target.startswith(self.view.root + "/"):
            return self.run("/", self.view.seen_path(target))
        return Resolved(path, file=file)


def resolve(view: View, thread: LiveThread, dirfd: int, path: str, follow: bool) -> Resolved:
    """
    What *path* of *thread*, relative to *dirfd*, means; *follow* a link at its end.

    Errno ENOENT, ENOTDIR, ELOOP for what is in our part; the host's own errors are
    left for the host to give.
    """
    start = _start(thread, dirfd, path)
    seen = view.seen_path(start)
    walk = _Walk(view, thread, follow)
    walk.been_ours = seen != start  # the host would look for it in the mirror
    return walk.run(seen, path)


def _start(thread: LiveThread, dirfd: int, path: str) -> str:
    if path.startswith("/"):
        return "/"
    try:
        return os.readlink(f"/proc/{thread.tid}/cwd" if dirfd == AT_FDCWD else f"/proc/{thread.tid}/fd/{dirfd}")
    except OSError:
        raise Errno(EBADF) from None
