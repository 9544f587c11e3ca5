# SPDX-License-Identifier: GPL-2.0-only
"""
ptrace(2), as far as the MMIO trap needs it. x86-64 only.

Every call must come from the thread that traces. Vector registers are read and written
as the XSAVE area that the kernel shows; where its parts lie is the processor's to say.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

from uvfio.live.syscalls import address_of, machine_code

PTRACE_CONT = 7
PTRACE_SINGLESTEP = 9
PTRACE_GETREGS = 12
PTRACE_SETREGS = 13
PTRACE_DETACH = 17
PTRACE_SYSCALL = 24
PTRACE_GETEVENTMSG = 0x4201
PTRACE_GETSIGINFO = 0x4202
PTRACE_SETSIGINFO = 0x4203
PTRACE_GETREGSET = 0x4204
PTRACE_SETREGSET = 0x4205
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_LISTEN = 0x4208
PTRACE_GETSIGMASK = 0x420A
PTRACE_SETSIGMASK = 0x420B
PTRACE_GET_SYSCALL_INFO = 0x420E

PTRACE_O_TRACESYSGOOD = 1
PTRACE_O_TRACEFORK = 1 << 1
PTRACE_O_TRACEVFORK = 1 << 2
PTRACE_O_TRACECLONE = 1 << 3
PTRACE_O_TRACEEXEC = 1 << 4

PTRACE_EVENT_EXEC = 4
PTRACE_EVENT_STOP = 128
GROUP_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

NT_X86_XSTATE = 0x202
WNOTHREAD = 0x20000000  # children and tracees of this thread only
WALL = 0x40000000

REGS = struct.Struct("<27Q")  # struct user_regs_struct
SIGINFO = struct.Struct("<iii4xQ")  # signo, errno, code, addr
SIGINFO_SIZE = 128
XSAVE_ROOM = 16384
XSTATE_BV = 512
LEGACY_XMM = 160
SSE, AVX, ZMM_HIGH, ZMM_16_31 = 1, 2, 6, 7

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request: int, tid: int, addr: int = 0, data: int = 0) -> None:
    if _ptrace(request, tid, addr, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def seize(tid: int) -> None:
    ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC)


def listen(tid: int) -> None:
    """Stay in the group stop that the thread is in, until SIGCONT."""
    ptrace(PTRACE_LISTEN, tid)


def event_message(tid: int) -> int:
    message = ctypes.c_ulong()
    ptrace(PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(message))
    return message.value


def set_fault(tid: int, signal: int, code: int, addr: int) -> None:
    """Change the signal that is about to be delivered."""
    info = bytearray(SIGINFO_SIZE)
    SIGINFO.pack_into(info, 0, signal, 0, code, addr)
    ptrace(PTRACE_SETSIGINFO, tid, 0, address_of(info))


def get_vectors(tid: int, layout: VectorLayout) -> Vectors:
    area = bytearray(XSAVE_ROOM)
    io = Iovec(address_of(area), XSAVE_ROOM)
    ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(io))
    return Vectors(area, io.length, layout)


def set_vectors(tid: int, vectors: Vectors) -> None:
    io = Iovec(address_of(vectors.area), vectors.length)
    ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(io))


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


class VectorLayout:
    """Where in the XSAVE area the upper parts of the vector registers are: CPUID leaf 13."""

    # push rbx; mov r8,rdx; mov eax,edi; mov ecx,esi; cpuid; mov [r8],eax; mov [r8+4],ebx; pop rbx; ret
    CPUID = bytes.fromhex("53 4989d0 89f8 89f1 0fa2 418900 41895804 5b c3")

    def __init__(self) -> None:
        self.offset = {part: self._offset(part) for part in (AVX, ZMM_HIGH, ZMM_16_31)}

    def _offset(self, part: int) -> int:
        page, at = machine_code(self.CPUID)
        out = (ctypes.c_uint32 * 2)()
        ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(at)(13, part, ctypes.addressof(out))
        page.close()
        return out[1]


class Vectors:
    """The vector registers of one stopped thread."""

    def __init__(self, area: bytearray, length: int, layout: VectorLayout) -> None:
        self.area = area
        self.length = length
        self._offset = layout.offset

    def get(self, number: int, size: int) -> int:
        data = b"".join(self.area[at : at + n] for _part, at, n in self._pieces(number))
        return int.from_bytes(data[:size], "little")

    def set(self, number: int, size: int, value: int) -> None:
        """Replace the low *size* bytes; a part that the processor does not have must not come up."""
        data = value.to_bytes(64, "little")
        done = 0
        for part, at, n in self._pieces(number):
            if done >= size:
                break
            self.area[at : at + n] = data[done : done + n]
            held = int.from_bytes(self.area[XSTATE_BV : XSTATE_BV + 8], "little") | 1 << part
            self.area[XSTATE_BV : XSTATE_BV + 8] = held.to_bytes(8, "little")
            done += n

    def _pieces(self, number: int) -> list[tuple[int, int, int]]:
        """(part of the area, offset, bytes) from the lowest on."""
        if number >= 16:
            return [(ZMM_16_31, self._offset[ZMM_16_31] + 64 * (number - 16), 64)]
        pieces = [(SSE, LEGACY_XMM + 16 * number, 16)]
        if self._offset[AVX]:
            pieces.append((AVX, self._offset[AVX] + 16 * number, 16))
        if self._offset[ZMM_HIGH]:
            pieces.append((ZMM_HIGH, self._offset[ZMM_HIGH] + 32 * number, 32))
        return pieces
