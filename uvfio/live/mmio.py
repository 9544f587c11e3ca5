# SPDX-License-Identifier: GPL-2.0-only
"""
Registers in a BAR that a client has mapped.

The file behind such a mapping ends before it, so each access raises SIGBUS before it
has done anything. A thread of ours traces the client, does the one instruction with
the device in place of memory, and drops the signal: every access reaches the device,
in program order, with its size and value. What the device refuses (unplugged, memory
decode off) is a real SIGBUS, as it is in Linux.

The device model belongs to the main thread. While that has nothing to do the tracing
thread borrows it (``borrow.py``); else the access is handed over through a queue and an
eventfd, and the tracing thread waits for the answer.

Known differences from hardware: an instruction that can neither be emulated nor be done
in a single step (``singlestep.py``) gets a SIGBUS too, and a line on stderr. The host
raises this SIGBUS by force, so a client that blocks or ignores SIGBUS finds it at its
default and unblocked afterwards. A process that shares its address space with the
client without being its thread is trapped only if it was made after the first mapping.
Where another tracer is at work already (strace, gdb) there is no trap, and a line says so;
registers of some models are polled then (``polling.py``).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from uvfio.live.access import Access as Access
from uvfio.live.access import Refused
from uvfio.live.borrow import Borrower
from uvfio.live.ptrace import VectorLayout, status_of
from uvfio.live.syscalls import CallLoop
from uvfio.live.tracing import TracingThread


class Poller(Protocol):
    """The part of ``loop.Loop`` that we need."""

    def inline(self, fd: int, ready: Callable[[], None]) -> None: ...

    def stop_inline(self) -> None: ...


class MmioTrapper:
    """
    Traces processes from their first trapped mapping on; everything public is the main thread's.

    *dispatch* is called there with each Access and must see to it that it is answered
    (it may sleep for that). *exited(pid, status)* hears, from a tracing thread,
    of a child of ours that we have reaped, before anybody can find that it is gone;
    *owns(device, inode)*, asked there too, says if a mapped file is one of ours, and
    *backing(inode)* gives a new fd on it.
    *borrower(knock)* makes what lets a tracing thread call *dispatch* itself.
    """

    def __init__(
        self,
        dispatch: Callable[[Access], None],
        complain: Callable[[str], None],
        exited: Callable[[int, int], None] = lambda _pid, _status: None,
        owns: Callable[[int, int], bool] = lambda _device, _inode: True,
        borrower: Callable[[Callable[[], None]], Borrower] | None = None,
        backing: Callable[[int], int | None] = lambda _inode: None,
    ) -> None:
        self._dispatch = dispatch
        self._complain = complain
        self._exited = exited
        self._owns = owns
        self._borrower = borrower
        self.backing = backing
        self.layout = VectorLayout()
        self.loop = CallLoop()
        self._queue: deque[Access] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._tracers: dict[int, TracingThread] = {}  # by thread number
        self._closed = False

    def start(self, poller: Poller) -> None:
        self._poller = poller
        poller.inline(self._wake, self.serve)

    def attach(self, pid: int, instead: str = "its accesses to mapped registers will be SIGBUS") -> bool:
        """
        Trap the accesses of process *pid* from now on; False if somebody else traces it, and a
        line that says what happens instead: *instead*.
        """
        try:
            state, tracer = status_of(pid)
        except OSError:
            state, tracer = "X", 0
        if state in "ZX":
            return False  # it was killed just now
        if tracer in self._tracers:
            return True
        if tracer:
            return self._cannot(pid, f"{_name(tracer)} traces it", instead)
        thread = TracingThread(self, pid)
        thread.start()
        thread.attached.wait()
        if thread.refused:
            return self._cannot(pid, thread.refused, instead)
        self._tracers = {t.native_id or 0: t for t in [*self._tracers.values(), thread] if t.is_alive()}
        return True

    def _cannot(self, pid: int, why: str, instead: str) -> bool:
        self.complain(f"cannot trace process {pid} ({why}): {instead}")
        return False

    def serve(self) -> None:
        """Pass on the access that waits; called when ``start``'s poller sees one."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        if self._queue:
            access = self._queue.popleft()
            if self._queue:
                os.eventfd_write(self._wake, 1)  # this one may sleep, and another leader serves the next
            self._dispatch(access)

    def close(self) -> None:
        """All clients have ended, or no access will be answered any more."""
        self._closed = True
        self._poller.stop_inline()
        while self._queue:
            self._queue.popleft().answer(None)
        os.close(self._wake)

    def complain(self, line: str) -> None:
        self._complain(line)

    def exited(self, pid: int, status: int) -> None:
        self._exited(pid, status)

    def owns(self, device: int, inode: int) -> bool:
        return self._owns(device, inode)

    def borrower(self) -> Borrower | None:
        """For a tracing thread, which makes it: what lets it answer by itself."""
        return None if self._borrower is None else self._borrower(self._knock)

    def answer(self, access: Access) -> None:
        """From a tracing thread that has borrowed the model: have it done."""
        if self._closed:
            access.answer(None)
        else:
            self._dispatch(access)

    def submit(self, access: Access) -> int:
        """From any other: have the main thread do it, and wait for that. May raise Refused."""
        if self._closed:
            raise Refused
        access.hand_over()
        self._queue.append(access)
        os.eventfd_write(self._wake, 1)
        return access.wait()

    def _knock(self) -> None:
        if not self._closed:
            os.eventfd_write(self._wake, 1)


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except OSError:
        return f"process {pid}"
