# SPDX-License-Identifier: GPL-2.0-only
"""
``chdir`` into our part of /sys and /dev.

The host can only follow the path that the client passed, and that is not there. So the
client gets an fd of the mirrored directory, and a short-lived tracer makes its call an
``fchdir`` of that: the call is answered with ERESTARTNOINTR, the thread stops before
it is done again, and has another number and argument then. The fd stays open (close on
exec) and is used again for the next time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading

from uvfio.live.ptrace import (
    PTRACE_DETACH,
    PTRACE_EVENT_STOP,
    PTRACE_GETREGS,
    PTRACE_INTERRUPT,
    PTRACE_O_TRACESYSGOOD,
    PTRACE_SEIZE,
    PTRACE_SETREGS,
    PTRACE_SYSCALL,
    REGS,
    WALL,
    WNOTHREAD,
    ptrace,
)
from uvfio.live.shellwrite import ORIG_RAX, RAX, SYSCALL_STOP
from uvfio.live.sysno import SYS

ERESTARTNOINTR = 513
RDI = 14


class Redirect(threading.Thread):
    """
    Make the ``chdir`` that thread *tid* is in an ``fchdir`` of *fd*. ``start``, wait for
    ``ready``, and answer the call with -ERESTARTNOINTR unless ``refused``.
    """

    def __init__(self, tid: int, fd: int) -> None:
        super().__init__(name=f"chdir-{tid}", daemon=True)
        self.tid = tid
        self.fd = fd
        self.ready = threading.Event()
        self.refused = False
        self._regs = ctypes.create_string_buffer(REGS.size)

    def run(self) -> None:
        try:
            ptrace(PTRACE_SEIZE, self.tid, 0, PTRACE_O_TRACESYSGOOD)
            ptrace(PTRACE_INTERRUPT, self.tid)
        except OSError:
            self.refused = True
            return
        finally:
            self.ready.set()
        try:
            ptrace(PTRACE_DETACH, self.tid, 0, self._redirect())
        except (ProcessLookupError, ChildProcessError):
            pass  # killed meanwhile

    def _redirect(self) -> int:
        """The signal to go on with: one that came first, and then the call is simply done again."""
        sig, event = self._stop()
        regs = self._get_regs()
        if event != PTRACE_EVENT_STOP or sig != signal.SIGTRAP or regs[RAX] != -ERESTARTNOINTR:
            return 0 if event else sig
        path = regs[RDI]
        self._set(regs, ORIG_RAX, SYS["fchdir"])
        self._set(regs, RDI, self.fd)
        ptrace(PTRACE_SETREGS, self.tid, 0, ctypes.addressof(self._regs))
        for _entry_and_exit in range(2):
            ptrace(PTRACE_SYSCALL, self.tid)
            sig, event = self._stop()
            if sig != SYSCALL_STOP:
                return 0 if event else sig
        # The caller's compiler may count on its argument being where it was.
        self._set(self._get_regs(), RDI, path)
        ptrace(PTRACE_SETREGS, self.tid, 0, ctypes.addressof(self._regs))
        return 0

    def _stop(self) -> tuple[int, int]:
        event = os.waitid(os.P_PID, self.tid, os.WEXITED | os.WSTOPPED | os.WNOWAIT | WALL | WNOTHREAD)
        if event is None or event.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
            raise ProcessLookupError
        os.waitid(os.P_PID, self.tid, os.WSTOPPED | os.WNOHANG | WALL | WNOTHREAD)
        return event.si_status & 0xFF, event.si_status >> 8

    def _get_regs(self) -> list[int]:
        ptrace(PTRACE_GETREGS, self.tid, 0, ctypes.addressof(self._regs))
        return list(struct.unpack_from("<27q", self._regs))

    def _set(self, regs: list[int], index: int, value: int) -> None:
        regs[index] = value
        struct.pack_into("<27q", self._regs, 0, *regs)
