# SPDX-License-Identifier: GPL-2.0-only
"""
A client's eventfd: ``struct eventfd_ctx`` for the modelled kernel.

It is a duplicate of the client's fd, so it lives on when the client closes its own,
and every waiter (poll, epoll, io threads, KVM) is woken by the host's kernel. Difference
from Linux: what it holds when a watch begins is taken at once, not with the next signal.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from errno import EBADF, EINVAL, EPERM
from typing import Protocol

from uvfio.live import host
from uvfio.runtime.errors import Errno


class Poller(Protocol):
    """What watches fds for us (``live/loop.py``)."""

    def watch(self, fd: int, events: int, ready: Callable[[int], None]) -> None:
        """Call *ready(revents)* from the loop, in a task, while *fd* is ready."""

    def unwatch(self, fd: int) -> None:
        """No more."""


class LiveEventfd:
    """Made by :func:`eventfd_of`."""

    def __init__(self, fd: int, poller: Poller) -> None:
        self.fd = fd
        self.poller = poller
        self.watchers: list[Callable[[], None]] = []

    def signal(self, n: int = 1) -> None:
        # A full counter would make us sleep: Linux drops the excess there.
        if select.select((), (self.fd,), (), 0)[1]:
            os.eventfd_write(self.fd, n)

    def watch(self, woken: Callable[[], None]) -> Callable[[], None]:
        if not self.watchers:
            self.poller.watch(self.fd, select.POLLIN, self._readable)
        self.watchers.append(woken)
        return lambda: self._stop(woken)

    def put(self) -> None:
        if self.watchers:
            self.poller.unwatch(self.fd)
            self.watchers.clear()
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def _stop(self, woken: Callable[[], None]) -> None:
        if woken in self.watchers:
            self.watchers.remove(woken)
            if not self.watchers:
                self.poller.unwatch(self.fd)

    def _readable(self, _events: int) -> None:
        try:
            # Another reader may have been faster, and the client's fd may be a blocking one.
            os.preadv(self.fd, [bytearray(8)], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            return
        for woken in list(self.watchers):
            woken()


def eventfd_of(pidfd: int, fd: int, poller: Poller) -> LiveEventfd:
    """``eventfd_ctx_fdget()``. Errno EBADF if *fd* is not open, EINVAL if it is no eventfd."""
    if fd < 0:
        raise Errno(EBADF)
    try:
        ours = host.pidfd_getfd(pidfd, fd)
    except OSError as e:
        raise Errno(EPERM if e.errno == EPERM else EBADF) from None
    if os.readlink(f"/proc/self/fd/{ours}") != "anon_inode:[eventfd]":
        os.close(ours)
        raise Errno(EINVAL)
    return LiveEventfd(ours, poller)
