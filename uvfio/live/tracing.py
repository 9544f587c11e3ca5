# SPDX-License-Identifier: GPL-2.0-only
"""
The tracing side of the MMIO trap: a thread that has a process and its descendants under
ptrace, and lets them notice nothing of it but the instructions it carries out for them.

Signals are passed on, group stops kept (PTRACE_LISTEN), what is forked and cloned comes
along by itself. A stop is never taken off with wait: the thread goes on, and then it is
over. So an exit can be told to others before anybody finds that there is nothing to wait
for any more.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Protocol

from uvfio.live.access import Access, Refused
from uvfio.live.borrow import Borrower
from uvfio.live.decode import InsnDecoder, describe
from uvfio.live.emulate import execute
from uvfio.live.ptrace import (
    GROUP_STOPS,
    PTRACE_EVENT_EXEC,
    PTRACE_EVENT_STOP,
    WALL,
    WNOTHREAD,
    VectorLayout,
    event_message,
    listen,
    seize,
    set_fault,
    status_of,
)
from uvfio.live.singlestep import CannotStep, single_step
from uvfio.live.stops import Stops
from uvfio.live.syscalls import CallLoop
from uvfio.live.tracee import NoMemory, Tracee

BUS_ADRERR = 2
SEGV_MAPERR = 1


class Trapper(Protocol):
    """What a tracing thread asks for; ``mmio.MmioTrapper``."""

    layout: VectorLayout
    loop: CallLoop

    def borrower(self) -> Borrower | None: ...

    def answer(self, access: Access) -> None: ...

    def submit(self, access: Access) -> int: ...

    def owns(self, device: int, inode: int) -> bool: ...

    def backing(self, inode: int) -> int | None: ...

    def complain(self, line: str) -> None: ...

    def exited(self, pid: int, status: int) -> None: ...


class TracingThread(threading.Thread):
    """Traces one process and what it forks, until all of that has ended."""

    def __init__(self, trapper: Trapper, pid: int) -> None:
        # A daemon: when we go down in the middle of something, the host detaches everything.
        super().__init__(name=f"mmio-{pid}", daemon=True)
        self.trapper = trapper
        self.pid = pid
        self.attached = threading.Event()
        self.refused = ""
        self.loop = trapper.loop
        self.layout = trapper.layout
        self.owns = trapper.owns
        self.backing = trapper.backing
        self._stops = Stops(trapper.loop)
        self._decoder = InsnDecoder()
        self._known: dict[int, Tracee] = {}
        self._tids: set[int] = set()  # all that we trace
        self._borrower: Borrower | None = None

    def run(self) -> None:
        self._borrower = self.trapper.borrower()
        if self._borrower is None:
            self._trace()
        else:
            self._borrower.inhabit(self._trace)

    def submit(self, access: Access) -> int:
        """Have *access* done: here, while the main thread has nothing to do. May raise Refused."""
        if self._borrower is None or not self._borrower.borrow():
            return self.trapper.submit(access)
        try:
            self.trapper.answer(access)
        finally:
            self._borrower.give_back()
        return access.wait()

    def _trace(self) -> None:
        try:
            self._seize_all()
        except (FileNotFoundError, ProcessLookupError):
            pass  # it was killed just now
        except OSError as e:
            self.refused = e.strerror or str(e)
        self.attached.set()
        while event := self._stops.next():
            tid, code, status = event
            try:
                if code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
                    self._ended(tid, code, status)
                else:
                    self._stopped(tid, status & 0xFF, status >> 8)
            except (ProcessLookupError, FileNotFoundError):
                pass  # killed meanwhile; its end is the next event
        for tracee in self._known.values():
            tracee.close()

    def _seize_all(self) -> None:
        """All threads, also those that start while we are at it (the seized ones bring theirs along)."""
        seized: set[int] = set()
        while new := {int(tid) for tid in os.listdir(f"/proc/{self.pid}/task")} - seized:
            for tid in new:
                try:
                    seize(tid)
                except ProcessLookupError:
                    pass
                except PermissionError:
                    state, tracer = status_of(tid)
                    if tracer != self.native_id and state not in "ZX":
                        raise
            seized |= new
        self._tids |= seized

    def _ended(self, tid: int, code: int, status: int) -> None:
        killed = code != os.CLD_EXITED
        self.trapper.exited(tid, status | (0x80 if code == os.CLD_DUMPED else 0) if killed else status << 8)
        self._forget(tid)
        self._tids.discard(tid)
        try:
            os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | WALL | WNOTHREAD)
        except ChildProcessError:
            pass

    def _stopped(self, tid: int, sig: int, event: int) -> None:
        if event == PTRACE_EVENT_STOP and sig in GROUP_STOPS:
            listen(tid)
        elif event:
            if event == PTRACE_EVENT_EXEC:
                former = event_message(tid)
                self._tids.discard(former)
                self._forget(tid)
                self._forget(former)
            self._tids.add(tid)  # a new one stops before it does anything
            self._stops.go_on(tid)
        elif sig == signal.SIGBUS:
            self._bus_error(tid)
        else:
            self._stops.go_on(tid, sig)

    def _forget(self, tid: int) -> None:
        tracee = self._known.pop(tid, None)
        if tracee is not None:
            tracee.close()

    def _bus_error(self, tid: int) -> None:
        """Do the instruction, or let the signal through."""
        tracee = self._known.get(tid)
        if tracee is None:
            tracee = self._known[tid] = Tracee(self, tid)
        tracee.stopped()
        fault = tracee.fault
        if fault.si_code != BUS_ADRERR or not tracee.in_device():
            self._stops.go_on(tid, signal.SIGBUS)
            return
        code = fault.instruction()
        if not code:  # its memory is gone: killed meanwhile
            self._stops.go_on(tid, signal.SIGBUS)
            return
        insn = self._decoder.decode(code)
        try:
            if insn is None:
                self._stops.go_on(tid, single_step(tracee, code, self._tids - {tid}))
                return
            execute(insn, tracee)
            sig = 0
        except Refused:
            sig = signal.SIGBUS
        except NoMemory as e:
            sig = signal.SIGSEGV
            set_fault(tid, sig, SEGV_MAPERR, e.addr)
        except CannotStep:
            sig = signal.SIGBUS
            self.trapper.complain(
                f"process {tid} touched device memory at {fault.si_addr:#x} with {describe(code)}, "
                "which uvfio can neither emulate nor single-step: SIGBUS"
            )
        tracee.write_back()  # also elements of a string instruction before one that failed
        self._stops.go_on(tid, sig, fault.regs_at)
