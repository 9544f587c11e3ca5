# SPDX-License-Identifier: GPL-2.0-only
"""
What the emulator does not know, the processor does: the file behind the registers is made
larger for one instruction, with what the device answers in it; the thread does a single
step; and what it stored goes to the device.

All differences from hardware: a load under a mask reads all elements; several threads
must not see the page while it is there, so those that run are held up, but one that
sleeps in a system call and wakes up just then (tens of microseconds) finds memory where
registers are, for a call like epoll_wait would end with EINTR if it were held up too. So
does a process that has been traced on its own, not as a child of this one.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import iced_x86
from iced_x86 import MemorySizeExt, Mnemonic, OpAccess, Register, RegisterExt

from uvfio.live.operands import FS_BASE, GPR, GS_BASE, RIP, WORD, Registers, load, store
from uvfio.live.ptrace import (
    PTRACE_GETSIGMASK,
    PTRACE_INTERRUPT,
    PTRACE_SETSIGMASK,
    PTRACE_SINGLESTEP,
    WALL,
    WNOTHREAD,
    ptrace,
    status_of,
)
from uvfio.live.syscalls import address_of
from uvfio.live.tracee import Tracee

MASK = struct.Struct("<Q")
PAGE = 4096
LARGEST = 512  # bytes of an operand: FXSAVE's
# What a step can end with by itself. Blocking them would reset their handlers.
OF_THE_STEP = (signal.SIGTRAP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
READS = {OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
WRITES = {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
# iced has these as stores of the whole.
MASK_MOVES = {
    getattr(Mnemonic, name)
    for name in ["MASKMOVQ", "MASKMOVDQU", "VMASKMOVDQU", "VMASKMOVPS", "VMASKMOVPD", "VPMASKMOVD", "VPMASKMOVQ"]
}
HELD_UP = 1.0  # seconds to wait for threads to leave the processor


class CannotStep(Exception):
    """The instruction is not one that can be done so."""


@dataclass(frozen=True)
class Touched:
    """Memory that an instruction touches."""

    addr: int
    size: int
    reads: bool
    writes: bool
    masked: bool  # not all that it could store need be stored


def touched_by(code: bytes, regs: Registers) -> list[Touched]:
    """What the instruction *code* at rip touches. CannotStep: that cannot be told."""
    insn = iced_x86.Decoder(64, code, ip=regs[RIP]).decode()
    found = []
    for memory in iced_x86.InstructionInfoFactory().info(insn).used_memory():
        # Of a repeated string instruction this is one element: it stops after each.
        size = MemorySizeExt.size(memory.memory_size) or MemorySizeExt.size(insn.memory_size)
        if memory.index != Register.NONE and not RegisterExt.is_gpr(memory.index):
            raise CannotStep  # gathers and scatters: an address for each element
        if memory.access in READS or memory.access in WRITES:
            reads, writes = memory.access in READS, memory.access in WRITES
            masked = writes and (memory.access == OpAccess.COND_WRITE or insn.mnemonic in MASK_MOVES)
            found.append(Touched(_address(memory, regs), size, reads, writes, masked))
    return found


def _address(memory: iced_x86.UsedMemory, regs: Registers) -> int:
    addr = memory.displacement
    for register, scale in ((memory.base, 1), (memory.index, memory.scale)):
        if register != Register.NONE:
            value = regs[GPR[RegisterExt.number(register)]]
            addr += (value if RegisterExt.size(register) == 8 else value & 0xFFFFFFFF) * scale
    segment = {Register.FS: FS_BASE, Register.GS: GS_BASE}.get(memory.segment)
    return addr + (0 if segment is None else regs[segment]) & WORD


def single_step(tracee: Tracee, code: bytes, others: Iterable[int]) -> int:
    """
    Have *tracee* do its instruction; the signal that it is to go on with. *others* are the
    threads that must not run meanwhile. Raises CannotStep, Refused, ProcessLookupError.
    """
    operands = [each for each in touched_by(code, tracee.regs) if tracee.is_device(each.addr, each.size)]
    if not operands or any(not 0 < each.size <= LARGEST for each in operands):
        raise CannotStep
    content = [_content(tracee, each) for each in operands]
    backing = tracee.backing()
    if backing is None:
        raise CannotStep
    try:
        with _held_up(others):
            sig, runs = _runs(tracee, backing, operands, content)
    finally:
        os.close(backing)
    if sig:
        return sig
    for each, *results in zip(operands, *runs, strict=True):
        if each.writes:
            _store(tracee, each.addr, results)
    return 0


def _content(tracee: Tracee, operand: Touched) -> bytes:
    """What the device answers, if it is asked."""
    size = operand.size
    return load(tracee, operand.addr, size).to_bytes(size, "little") if operand.reads else b""


def _runs(
    tracee: Tracee, backing: int, operands: Sequence[Touched], content: Sequence[bytes]
) -> tuple[int, list[list[bytes]]]:
    """
    A signal, or what is in memory afterwards. What stores under a mask runs twice, on
    other bytes each time: what comes out the same has been stored.
    """
    runs: list[list[bytes]] = []
    for fill in (b"\0", b"\xff") if any(each.masked for each in operands) else (b"\0",):
        if runs:
            tracee.restart()
        with _present(tracee, backing, operands):
            for each, data in zip(operands, content, strict=True):
                os.pwrite(backing, data or fill * each.size, tracee.file_offset(each.addr))
            sig = _step(tracee.tid)
            if sig:
                return sig, []
            runs.append([os.pread(backing, each.size, tracee.file_offset(each.addr)) for each in operands])
    return 0, runs


def _store(tracee: Tracee, addr: int, results: Sequence[bytes]) -> None:
    """Store the bytes that all *results* agree on, in pieces as large as may be."""
    first, last = results[0], results[-1]
    at = 0
    while at < len(first):
        end = at
        while end < len(first) and first[end] == last[end]:
            end += 1
        store(tracee, addr + at, end - at, int.from_bytes(first[at:end], "little"))
        at = end + 1


@contextmanager
def _present(tracee: Tracee, backing: int, operands: Sequence[Touched]) -> Iterator[None]:
    """Meanwhile the file reaches beyond the *operands*. Its new pages go with the old size."""
    size = os.fstat(backing).st_size
    end = max(tracee.file_offset(each.addr) + each.size for each in operands)
    os.ftruncate(backing, max(size, -(-end // PAGE) * PAGE))
    try:
        yield
    finally:
        os.ftruncate(backing, size)


def _step(tid: int) -> int:
    """One step; the signal that came instead, or 0."""
    mask = bytearray(MASK.size)
    at = address_of(mask)
    ptrace(PTRACE_GETSIGMASK, tid, MASK.size, at)
    before = bytes(mask)
    # A signal from elsewhere must wait: its handler would run with the page in place.
    mask[:] = MASK.pack(WORD & ~sum(1 << sig - 1 for sig in OF_THE_STEP))
    ptrace(PTRACE_SETSIGMASK, tid, MASK.size, at)
    try:
        while True:
            ptrace(PTRACE_SINGLESTEP, tid)
            stop = os.waitid(os.P_PID, tid, os.WEXITED | os.WSTOPPED | os.WNOWAIT | WALL | WNOTHREAD)
            if stop is None or stop.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
                raise ProcessLookupError
            sig, event = stop.si_status & 0xFF, stop.si_status >> 8
            if not event:
                return 0 if sig == signal.SIGTRAP else sig
    finally:
        mask[:] = before
        ptrace(PTRACE_SETSIGMASK, tid, MASK.size, at)


@contextmanager
def _held_up(tids: Iterable[int]) -> Iterator[None]:
    """None of *tids* runs; they stop, and go on when their tracing thread sees that they did."""
    running = [tid for tid in tids if _runs_now(tid)]
    for tid in running:
        try:
            ptrace(PTRACE_INTERRUPT, tid)
        except ProcessLookupError:
            pass
    until = time.monotonic() + HELD_UP
    while any(map(_runs_now, running)):
        if time.monotonic() > until:
            raise CannotStep
        time.sleep(0.0001)
    yield


def _runs_now(tid: int) -> bool:
    try:
        return status_of(tid)[0] == "R"
    except OSError:
        return False  # it is gone
