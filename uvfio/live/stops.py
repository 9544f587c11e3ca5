# SPDX-License-Identifier: GPL-2.0-only
"""
The two batches of system calls that a trapped access needs, beside what is done for it:
let the thread go on and wait for the next stop, and look at where a thread has stopped.
"""

from __future__ import annotations

import os
import time
from errno import EINTR

from uvfio.live.decode import MAX_LENGTH
from uvfio.live.maps import PROCMAP_QUERY, Mapping, MapQuery
from uvfio.live.operands import RIP
from uvfio.live.ptrace import (
    PTRACE_CONT,
    PTRACE_GETREGS,
    PTRACE_GETSIGINFO,
    PTRACE_SETREGS,
    REGS,
    SIGINFO_SIZE,
    WALL,
    WNOTHREAD,
)
from uvfio.live.syscalls import CallLoop, SystemCalls, address_of, argument
from uvfio.live.sysno import SYS

PAGE_MASK = -4096
SI_CODE, SI_PID, SI_STATUS = 2, 4, 6  # of SIGCHLD's siginfo, in ints
LOOK_SECONDS = 200e-6
REST = 20  # accesses that we sleep after, when the last one did not come while we looked
NEVER = 1 << 62


class Stops:
    """
    What a tracing thread waits for. Nothing that it finds is taken off (WNOWAIT).

    A thread that has just had an access done mostly makes the next one at once. To be woken
    for that takes longer than all the rest, when a processor has gone idle meanwhile; so we
    look for a while before we sleep, as long as that is worth it.
    """

    SET_REGS, CONT, WAIT, LOOK, END = range(5)

    def __init__(self, loop: CallLoop) -> None:
        siginfo = bytearray(SIGINFO_SIZE)
        self._siginfo = memoryview(siginfo).cast("i")
        self._calls = calls = SystemCalls(loop, self.END)
        options = os.WEXITED | os.WSTOPPED | os.WNOWAIT | WALL | WNOTHREAD
        calls.set(self.SET_REGS, SYS["ptrace"], PTRACE_SETREGS, 0, 0, 0)
        calls.set(self.CONT, SYS["ptrace"], PTRACE_CONT, 0, 0, 0)
        calls.set(self.WAIT, SYS["waitid"], os.P_ALL, 0, address_of(siginfo), options, 0)
        calls.set(self.LOOK, SYS["waitid"], os.P_ALL, 0, address_of(siginfo), options | os.WNOHANG, 0)
        self._first = self.WAIT
        # On the only processor the client could not run while we look.
        self._sleeps = 0 if len(os.sched_getaffinity(0)) > 1 else NEVER  # so often before we look again

    def go_on(self, tid: int, signal: int = 0, regs_at: int | None = None) -> None:
        """Before the next wait: set the registers of a stopped thread, if given, and let it go on."""
        words = self._calls.words
        if regs_at is None:
            self._first = self.CONT
        else:
            self._first = self.SET_REGS
            words[argument(self.SET_REGS, 1)] = tid
            words[argument(self.SET_REGS, 3)] = regs_at
        words[argument(self.CONT, 1)] = tid
        words[argument(self.CONT, 3)] = signal

    def next(self) -> tuple[int, int, int] | None:
        """(tid, CLD_EXITED or so, status), as SIGCHLD tells them; None: there is nobody left to wait for."""
        first, self._first = self._first, self.WAIT
        if first == self.SET_REGS and self._sleeps:
            self._sleeps -= 1
        elif first == self.SET_REGS:
            self._calls.wait(first, self.WAIT - first)  # if it was killed, its end is the next event
            if self._comes_soon():
                return self._event()
            self._sleeps = REST
            first = self.WAIT
        while self._calls.wait(first, self.WAIT + 1 - first) <= self.WAIT - first:
            # It was killed before it could go on, and its end is the next event; or no call was interrupted at all.
            if first == self.WAIT and self._calls.results[self.WAIT] != -EINTR:
                return None
            first = self.WAIT
        return self._event()

    def _comes_soon(self) -> bool:
        until = time.monotonic() + LOOK_SECONDS
        while True:
            if self._calls.wait(self.LOOK, 1) and self._siginfo[SI_PID]:
                return True
            if time.monotonic() > until:
                return False

    def _event(self) -> tuple[int, int, int]:
        return self._siginfo[SI_PID], self._siginfo[SI_CODE], self._siginfo[SI_STATUS]


class Fault:
    """
    Where one thread stopped with a signal: :meth:`look`, and then the attributes. It is
    mostly where it was before, so that is asked along; if it is not, there is one more call.
    """

    SIGINFO, GET_REGS, CODE, MAPPING, END = range(5)

    def __init__(self, loop: CallLoop, tid: int, memory: int, query: MapQuery) -> None:
        siginfo, regs, self._code = bytearray(SIGINFO_SIZE), bytearray(REGS.size), bytearray(MAX_LENGTH)
        self._codes, self._addrs = memoryview(siginfo).cast("i"), memoryview(siginfo).cast("Q")
        self.regs, self.regs_at = memoryview(regs).cast("Q"), address_of(regs)
        self._memory, self._query = memory, query
        self._page = self._rip = 0
        self._calls = calls = SystemCalls(loop, self.END)
        calls.set(self.SIGINFO, SYS["ptrace"], PTRACE_GETSIGINFO, tid, 0, address_of(siginfo))
        calls.set(self.GET_REGS, SYS["ptrace"], PTRACE_GETREGS, tid, 0, self.regs_at)
        calls.set(self.CODE, SYS["pread64"], memory, address_of(self._code), MAX_LENGTH, 0)
        calls.set(self.MAPPING, SYS["ioctl"], query.maps, PROCMAP_QUERY, address_of(query.query))
        self._done = 0

    def look(self) -> None:
        self._done = self._calls.run(0, self.END)
        if self._done < self.CODE:
            raise ProcessLookupError

    @property
    def si_code(self) -> int:
        return self._codes[2]

    @property
    def si_addr(self) -> int:
        return self._addrs[2]

    def instruction(self) -> bytes:
        """What is at rip: up to 15 bytes, empty if there is nothing."""
        rip = self.regs[RIP]
        if self._done > self.CODE and rip == self._rip:
            return bytes(self._code[: self._calls.results[self.CODE]])
        self._rip = self._calls.words[argument(self.CODE, 3)] = rip
        return os.pread(self._memory, MAX_LENGTH, rip)

    def mapping(self) -> Mapping | None:
        """What is mapped where it faulted."""
        page = self.si_addr & PAGE_MASK
        if self._done > self.MAPPING and page == self._page:
            return self._query.answer()
        self._page = page
        return self._query.at(page)
