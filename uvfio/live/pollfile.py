# SPDX-License-Identifier: GPL-2.0-only
"""
What stands for a File that clients poll: a pipe that has a byte in it while there is
something to read, so that poll, select and epoll of the host say what Linux would.

A client that may write has the pipe open for both, else only its reading end; its read and
write calls come to us and never touch the pipe. We have a writing end, which the host
reports as broken when the last client has closed the file.

Differences from Linux: who asks poll for POLLWRNORM too is told of it, which a fault queue
does not do; F_GETFL of a file that is only read says O_RDONLY, not O_RDWR; and reads and
writes on an fd that the client itself has put below the numbers that we give out (dup2,
SCM_RIGHTS) do reach the pipe.
"""

from __future__ import annotations

import os
import select
from errno import EAGAIN

CAPACITY = 65536


class PollFile:
    """The pipe of one File."""

    def __init__(self, writable: bool) -> None:
        theirs, self.ours = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        path = f"/proc/self/fd/{self.ours}"
        # Opened again: the client's must not be O_NONBLOCK, which we need.
        self._theirs = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        os.close(theirs)
        self.link = os.readlink(path)
        self._readable = False

    def take(self) -> int:
        """The client's end, the caller's to close."""
        return self._theirs

    def changed(self, events: int) -> None:
        """*events* hold now, and somebody may have been woken for them."""
        if events & select.POLLIN:
            self._readable = True
            # One more each time, or an edge-triggered epoll would not see that there is more.
            try:
                os.write(self.ours, b"\0")
            except OSError as e:
                if e.errno != EAGAIN:
                    raise
        elif self._readable:
            self._readable = False
            ours = os.open(f"/proc/self/fd/{self.ours}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.read(ours, CAPACITY)
            finally:
                os.close(ours)

    def close(self) -> None:
        os.close(self.ours)
