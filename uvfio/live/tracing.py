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

from uvfio.live import host, maps
from uvfio.live.decode import MAX_LENGTH, RIP, InsnDecoder, describe
from uvfio.live.emulate import execute
from uvfio.live.ptrace import PTRACE_EVENT_EXEC, PTRACE_EVENT_STOP, WALL, WNOTHREAD, Tracer, VectorLayout, Vectors

BUS_ADRERR = 2
SEGV_MAPERR = 1
GROUP_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class Refused(Exception):
    """The device does not answer here: SIGBUS."""


class NoMemory(Exception):
    """The instruction touched memory of the client that is not there: SIGSEGV at *addr*."""

    def __init__(self, addr: int) -> None:
        super().__init__(f"{addr:#x}")
        self.addr = addr


class Access:
    """One access of 1 to 8 bytes; *value* None means a read."""

    def __init__(self, tid: int, inode: int, offset: int, size: int, value: int | None) -> None:
        self.tid = tid
        self.inode = inode  # of the mapped file
        self.offset = offset  # in that file
        self.size = size
        self.value = value
        self.result: int | None = None  # None: refused
        self._answered = threading.Lock()
        self._answered.acquire()

    def answer(self, result: int | None) -> None:
        """What was read (0 for a write), or None for a SIGBUS. Once, from any thread."""
        self.result = result
        self._answered.release()

    def wait(self) -> int:
        self._answered.acquire()
        if self.result is None:
            raise Refused
        return self.result


class Trapper(Protocol):
    """What a tracing thread asks for; ``mmio.MmioTrapper``."""

    layout: VectorLayout

    def complain(self, line: str) -> None: ...

    def exited(self, pid: int, status: int) -> None: ...

    def owns(self, device: int, inode: int) -> bool: ...

    def submit(self, access: Access) -> int: ...


class TracingThread(threading.Thread):
    """Traces one process and what it forks, until all of that has ended."""

    def __init__(self, trapper: Trapper, pid: int) -> None:
        # A daemon: when we go down in the middle of something, the host detaches everything.
        super().__init__(name=f"mmio-{pid}", daemon=True)
        self.trapper = trapper
        self.pid = pid
        self.attached = threading.Event()
        self.refused = ""
        self._tracer = Tracer(trapper.layout)
        self._decoder = InsnDecoder()
        self._known: dict[int, Tracee] = {}

    def run(self) -> None:
        try:
            self._seize_all()
        except (FileNotFoundError, ProcessLookupError):
            pass  # it was killed just now
        except OSError as e:
            self.refused = e.strerror or str(e)
        self.attached.set()
        options = os.WEXITED | os.WSTOPPED | os.WNOWAIT | WALL | WNOTHREAD
        while True:
            try:
                event = os.waitid(os.P_ALL, 0, options)
            except ChildProcessError:
                break
            assert event is not None
            try:
                if event.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
                    self._ended(event.si_pid, event.si_code, event.si_status)
                else:
                    self._stopped(event.si_pid, event.si_status & 0xFF, event.si_status >> 8)
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
                    self._tracer.seize(tid)
                except ProcessLookupError:
                    pass
                except PermissionError:
                    state, tracer = status_of(tid)
                    if tracer != self.native_id and state not in "ZX":
                        raise
            seized |= new

    def _ended(self, tid: int, code: int, status: int) -> None:
        killed = code != os.CLD_EXITED
        self.trapper.exited(tid, status | (0x80 if code == os.CLD_DUMPED else 0) if killed else status << 8)
        self._forget(tid)
        try:
            os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | WALL | WNOTHREAD)
        except ChildProcessError:
            pass

    def _stopped(self, tid: int, sig: int, event: int) -> None:
        if event == PTRACE_EVENT_STOP and sig in GROUP_STOPS:
            self._tracer.listen(tid)
        elif event:
            if event == PTRACE_EVENT_EXEC:
                self._forget(tid)
                self._forget(self._tracer.event_message(tid))
            self._tracer.cont(tid)
        elif sig == signal.SIGBUS:
            self._tracer.cont(tid, self._bus_error(tid))
        else:
            self._tracer.cont(tid, sig)

    def _forget(self, tid: int) -> None:
        tracee = self._known.pop(tid, None)
        if tracee is not None:
            tracee.close()

    def _bus_error(self, tid: int) -> int:
        """The signal to deliver; 0 when the instruction has been done."""
        code, addr = self._tracer.get_fault(tid)
        if code != BUS_ADRERR:
            return signal.SIGBUS
        tracee = self._known.get(tid)
        if tracee is None:
            tracee = self._known[tid] = Tracee(self.trapper, self._tracer, tid)
        if not tracee.faults_at(addr):
            return signal.SIGBUS
        tracee.regs = self._tracer.get_regs(tid)
        tracee.vectors = None
        instruction = tracee.code(tracee.regs[RIP])
        if not instruction:
            return signal.SIGBUS  # its memory is gone: killed meanwhile
        insn = self._decoder.decode(instruction)
        if insn is None:
            self.trapper.complain(
                f"process {tid} touched device memory at {addr:#x} with {describe(instruction)}, "
                "which uvfio cannot emulate: SIGBUS"
            )
            return signal.SIGBUS
        try:
            execute(insn, tracee)
        except Refused:
            return self._undone(tid, tracee, signal.SIGBUS)
        except NoMemory as e:
            self._tracer.set_fault(tid, signal.SIGSEGV, SEGV_MAPERR, e.addr)
            return self._undone(tid, tracee, signal.SIGSEGV)
        self._write_back(tid, tracee)
        return 0

    def _undone(self, tid: int, tracee: Tracee, sig: int) -> int:
        self._write_back(tid, tracee)  # elements of a string instruction that were done stay done
        return sig

    def _write_back(self, tid: int, tracee: Tracee) -> None:
        self._tracer.set_regs(tid, tracee.regs)
        if tracee.vectors is not None and tracee.vectors_changed:
            self._tracer.set_vectors(tid, tracee.vectors)


class Tracee:
    """A thread stopped in front of an instruction; ``emulate.Cpu``."""

    def __init__(self, trapper: Trapper, tracer: Tracer, tid: int) -> None:
        self.trapper = trapper
        self.tracer = tracer
        self.tid = tid
        self.regs: list[int] = []
        self.vectors: Vectors | None = None
        self.vectors_changed = False
        self._memory = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._maps = os.open(f"/proc/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._memory)
            raise
        self._query = maps.MapQuery(self._maps, tid)
        self._writer = host.RemoteWriter(tid)
        self._trapped: maps.Mapping | None = None  # where the instruction faulted

    def close(self) -> None:
        os.close(self._memory)
        os.close(self._maps)

    def code(self, rip: int) -> bytes:
        return os.pread(self._memory, MAX_LENGTH, rip)

    def faults_at(self, addr: int) -> bool:
        """Is the SIGBUS at *addr* one of ours?"""
        self._trapped = self._mapping(addr)
        return self._trapped is not None

    def _mapping(self, addr: int) -> maps.Mapping | None:
        """The mapping of one of our files at *addr*."""
        mapping = self._query.at(addr)
        ours = (
            mapping is not None
            and mapping.shared
            and mapping.inode
            and self.trapper.owns(mapping.device, mapping.inode)
        )
        return mapping if ours else None

    def load(self, addr: int, size: int) -> int:
        if not self._is_trapped(addr):
            try:
                data = os.pread(self._memory, size, addr)
            except (OSError, OverflowError):
                data = b""
            if len(data) == size:
                return int.from_bytes(data, "little")
        return self._device(addr, size, None)

    def store(self, addr: int, size: int, value: int) -> None:
        if self._is_trapped(addr) or not self._writer.write(addr, value.to_bytes(size, "little")):
            self._device(addr, size, value)

    def _is_trapped(self, addr: int) -> bool:
        return self._trapped is not None and self._trapped.start <= addr < self._trapped.end

    def _device(self, addr: int, size: int, value: int | None) -> int:
        mapping = self._trapped if self._is_trapped(addr) else self._mapping(addr)
        if mapping is None or not (mapping.readable if value is None else mapping.writable):
            raise NoMemory(addr)
        offset = mapping.offset + addr - mapping.start
        return self.trapper.submit(Access(self.tid, mapping.inode, offset, size, value))

    def get_vector(self, number: int, size: int) -> int:
        return self._vectors().get(number, size)

    def set_vector(self, number: int, size: int, value: int) -> None:
        self._vectors().set(number, size, value)
        self.vectors_changed = True

    def _vectors(self) -> Vectors:
        if self.vectors is None:
            self.vectors = self.tracer.get_vectors(self.tid)
            self.vectors_changed = False
        return self.vectors


def status_of(tid: int) -> tuple[str, int]:
    """The state of a thread (Z and X: dead), and who traces it, or 0."""
    state, tracer = "X", 0
    with open(f"/proc/{tid}/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith("State:"):
                state = line.split()[1]
            elif line.startswith("TracerPid:"):
                tracer = int(line.split()[1])
    return state, tracer
