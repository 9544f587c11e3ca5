# SPDX-License-Identifier: GPL-2.0-only
"""
``echo 1 > remove``: writes to a sysfs attribute through a copy of its fd.

A shell opens the attribute, makes it fd 1 and writes to that, where no filter can tell
it from any other output. So the thread that copies such an fd is traced from that call
until the attribute is closed: a ``write`` to it is done by the model in place of the
host, and answers what the attribute answers, when it has answered. Where the thread is
traced already the write goes to the memfd and acts when that is closed
(``attributes.py``).
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EFAULT
from functools import partial

from uvfio.live import host
from uvfio.live.loop import Loop
from uvfio.live.ptrace import (
    GROUP_STOPS,
    PTRACE_DETACH,
    PTRACE_EVENT_STOP,
    PTRACE_GET_SYSCALL_INFO,
    PTRACE_GETREGS,
    PTRACE_INTERRUPT,
    PTRACE_O_TRACECLONE,
    PTRACE_O_TRACEEXEC,
    PTRACE_O_TRACEFORK,
    PTRACE_O_TRACESYSGOOD,
    PTRACE_O_TRACEVFORK,
    PTRACE_SEIZE,
    PTRACE_SETREGS,
    PTRACE_SYSCALL,
    REGS,
    WALL,
    WNOTHREAD,
    listen,
    ptrace,
)
from uvfio.live.sysno import SYS

SYSCALL_STOP = signal.SIGTRAP | 0x80
ENTRY, EXIT = 1, 2
RAX, ORIG_RAX = 10, 15
OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC
MAX_WRITE = 4096
_INFO = struct.Struct("<BxxxIQQ4Q")


@dataclass
class Write:
    """A write that a traced thread waits for; *link* tells the file."""

    link: str
    data: bytes
    result: int = -EFAULT
    done: threading.Event = field(default_factory=threading.Event)


class ShellWrites:
    """
    Everything public is the main thread's. *write* is called there, must see to it that
    ``result`` and ``done`` get set, and may start a task for that; *look_for_closed()* is
    called there to find what has been closed just now; *is_open(link)* may be called from
    any thread; *exited* as in MmioTrapper.
    """

    def __init__(
        self,
        write: Callable[[Write], None],
        look_for_closed: Callable[[], None],
        is_open: Callable[[str], bool],
        exited: Callable[[int, int], None],
        loop: Loop,
    ) -> None:
        self.write = write
        self.look_for_closed = look_for_closed
        self.is_open = is_open
        self.exited = exited
        self.loop = loop
        self.lock = threading.Lock()
        self.tracing: dict[int, _TracingThread] = {}  # by tid; lock
        self._queue: deque[tuple[Callable[[], None], threading.Event]] = deque()  # and what says that it is done
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        loop.direct(self._wake, lambda _events: self._serve())

    def copied(self, tid: int, link: str) -> None:
        """Thread *tid*, which is in a system call, is about to copy an fd on *link*."""
        with self.lock:
            tracing = self.tracing.get(tid)
            if tracing is not None:
                tracing.links.add(link)
                return
        thread = _TracingThread(self, tid, link)
        thread.start()
        thread.ready.wait()

    def submit(self, write: Write) -> int:
        """From a tracing thread."""
        self._have_done(partial(self.write, write), write.done)
        return write.result

    def settle(self) -> None:
        """From a tracing thread: ``is_open`` is true of nothing any more that has been closed by now."""
        done = threading.Event()

        def look() -> None:
            self.look_for_closed()
            done.set()

        self._have_done(look, done)

    def close(self) -> None:
        self.loop.stop_direct(self._wake)
        while self._queue:
            self._queue.popleft()[1].set()
        os.close(self._wake)

    def _have_done(self, what: Callable[[], None], done: threading.Event) -> None:
        self._queue.append((what, done))
        os.eventfd_write(self._wake, 1)
        done.wait()

    def _serve(self) -> None:
        os.eventfd_read(self._wake)
        while self._queue:
            self._queue.popleft()[0]()


class _TracingThread(threading.Thread):
    """Traces one thread, and what it forks, while one of *links* is open."""

    def __init__(self, owner: ShellWrites, tid: int, link: str) -> None:
        super().__init__(name=f"write-{tid}", daemon=True)
        self.owner = owner
        self.tid = tid
        self.links = {link}  # owner.lock
        self.ready = threading.Event()
        self._results: dict[int, int] = {}  # of writes done, to be shown when the call returns
        self._regs = ctypes.create_string_buffer(REGS.size)
        self._info = ctypes.create_string_buffer(88)

    def run(self) -> None:
        try:
            ptrace(PTRACE_SEIZE, self.tid, 0, OPTIONS)
            # It sleeps in its call and cannot stop there; it will before it runs on.
            ptrace(PTRACE_INTERRUPT, self.tid)
            with self.owner.lock:
                self.owner.tracing[self.tid] = self
        except OSError:
            return
        finally:
            self.ready.set()
        while True:
            try:
                event = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOWAIT | WALL | WNOTHREAD)
            except ChildProcessError:
                return
            assert event is not None
            if event.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
                self._ended(event.si_pid, event.si_code, event.si_status)
                continue
            try:
                os.waitid(os.P_PID, event.si_pid, os.WSTOPPED | os.WNOHANG | WALL | WNOTHREAD)
                self._stopped(event.si_pid, event.si_status & 0xFF, event.si_status >> 8)
            except (ProcessLookupError, ChildProcessError):
                pass  # killed meanwhile

    def _ended(self, tid: int, code: int, status: int) -> None:
        core = 0x80 if code == os.CLD_DUMPED else 0
        self.owner.exited(tid, status << 8 if code == os.CLD_EXITED else status | core)
        with self.owner.lock:
            self.owner.tracing.pop(tid, None)
        try:
            os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | WALL | WNOTHREAD)
        except ChildProcessError:
            pass

    def _stopped(self, tid: int, sig: int, event: int) -> None:
        if sig == SYSCALL_STOP:
            self._system_call(tid)
            if not self._detached(tid, 0):
                ptrace(PTRACE_SYSCALL, tid)
        elif event == PTRACE_EVENT_STOP and sig in GROUP_STOPS:
            listen(tid)
        elif event:
            with self.owner.lock:
                self.owner.tracing[tid] = self
            ptrace(PTRACE_SYSCALL, tid)
        elif not self._detached(tid, sig):
            ptrace(PTRACE_SYSCALL, tid, 0, sig)

    def _detached(self, tid: int, sig: int) -> bool:
        """Let *tid* go, delivering *sig*, if nothing that we trace it for is open any more."""
        with self.owner.lock:
            if tid in self._results or any(self.owner.is_open(link) for link in self.links):
                return False
            self.owner.tracing.pop(tid, None)
            ptrace(PTRACE_DETACH, tid, 0, sig)
        return True

    def _system_call(self, tid: int) -> None:
        ptrace(PTRACE_GET_SYSCALL_INFO, tid, len(self._info), ctypes.addressof(self._info))
        op, _arch, _ip, _sp, nr, fd, buf, count = _INFO.unpack_from(self._info)
        if op == ENTRY and nr == SYS["write"]:
            link = self._link(tid, fd)
            if link is not None:
                self._results[tid] = self._write(tid, link, buf, count)
                self._set_register(tid, ORIG_RAX, -1)  # no such call: the host does nothing
        elif op == ENTRY and nr == SYS["chdir"]:
            self.owner.settle()  # or what has just been closed would keep us here, and chdir.py away
        elif op == EXIT and tid in self._results:
            self._set_register(tid, RAX, self._results.pop(tid))

    def _link(self, tid: int, fd: int) -> str | None:
        try:
            link = os.readlink(f"/proc/{tid}/fd/{fd & 0xFFFFFFFF}")
        except OSError:
            return None
        return link if link in self.links and self.owner.is_open(link) else None

    def _write(self, tid: int, link: str, buf: int, count: int) -> int:
        data = host.process_vm_read(tid, buf, min(count, MAX_WRITE))
        if not data and count:
            return -EFAULT
        return self.owner.submit(Write(link, data))

    def _set_register(self, tid: int, index: int, value: int) -> None:
        at = ctypes.addressof(self._regs)
        ptrace(PTRACE_GETREGS, tid, 0, at)
        struct.pack_into("<q", self._regs, 8 * index, value)
        ptrace(PTRACE_SETREGS, tid, 0, at)
