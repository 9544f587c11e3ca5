# SPDX-License-Identifier: GPL-2.0-only
"""One access to a device, from the thread that traces the client to the one that answers."""

from __future__ import annotations

import threading


class Refused(Exception):
    """The device does not answer here: SIGBUS."""


class Access:
    """One access of 1 to 8 bytes; *value* None means a read."""

    __slots__ = ("inode", "offset", "result", "size", "tid", "value", "waiter")

    def __init__(self, tid: int, inode: int, offset: int, size: int, value: int | None) -> None:
        self.tid = tid
        self.inode = inode  # of the mapped file
        self.offset = offset  # in that file
        self.size = size
        self.value = value
        self.result: int | None = None  # None: refused
        self.waiter: threading.Lock | None = None  # of who has handed it over

    def hand_over(self) -> None:
        """Another thread will answer: ``wait`` has something to wait for."""
        self.waiter = threading.Lock()
        self.waiter.acquire()

    def answer(self, result: int | None) -> None:
        """What was read (0 for a write), or None for a SIGBUS. Once, from any thread."""
        self.result = result
        if self.waiter is not None:
            self.waiter.release()

    def wait(self) -> int:
        if self.waiter is not None:
            self.waiter.acquire()
        if self.result is None:
            raise Refused
        return self.result
