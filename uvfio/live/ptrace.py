# SPDX-License-Identifier: GPL-2.0-only
"""
ptrace(2), as far as the MMIO trap needs it. x86-64 only.

Every call must come from the thread that traces. Vector registers are read and written
as the XSAVE area that the kernel shows; where its parts lie is the processor's to say.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

PTRACE_CONT = 7
PTRACE_GETREGS = 12
PTRACE_SETREGS = 13
PTRACE_GETEVENTMSG = 0x4201
PTRACE_GETSIGINFO = 0x4202
PTRACE_SETSIGINFO = 0x4203
PTRACE_GETREGSET = 0x4204
PTRACE_SETREGSET = 0x4205
PTRACE_SEIZE = 0x4206
PTRACE_LISTEN = 0x4208

PTRACE_O_TRACEFORK = 1 << 1
PTRACE_O_TRACEVFORK = 1 << 2
PTRACE_O_TRACECLONE = 1 << 3
PTRACE_O_TRACEEXEC = 1 << 4

PTRACE_EVENT_EXEC = 4
PTRACE_EVENT_STOP = 128

NT_X86_XSTATE = 0x202
WNOTHREAD = 0x20000000  # children and tracees of this thread only
WALL = 0x40000000

REGS = struct.Struct("<27Q")
SIGINFO = struct.Struct("<iii4xQ")  # signo, errno, code, addr
SIGINFO_SIZE = 128
XSAVE_ROOM = 16384
XSTATE_BV = 512
LEGACY_XMM = 160
SSE, AVX, ZMM_HIGH, ZMM_16_31 = 1, 2, 6, 7

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request: int, tid: int, addr: int = 0, data: int = 0) -> None:
    if _ptrace(request, tid, addr, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def _address(area: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


class Tracer:
    """The calls on a stopped thread, with buffers of their own."""

    def __init__(self, layout: VectorLayout) -> None:
        self.layout = layout
        self._regs = ctypes.create_string_buffer(REGS.size)
        self._siginfo = ctypes.create_string_buffer(SIGINFO_SIZE)
        self._message = ctypes.c_ulong()
        self._regs_at = ctypes.addressof(self._regs)
        self._siginfo_at = ctypes.addressof(self._siginfo)

    def seize(self, tid: int) -> None:
        options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC
        ptrace(PTRACE_SEIZE, tid, 0, options)

    def cont(self, tid: int, signal: int = 0) -> None:
        ptrace(PTRACE_CONT, tid, 0, signal)

    def listen(self, tid: int) -> None:
        """Stay in the group stop that the thread is in, until SIGCONT."""
        ptrace(PTRACE_LISTEN, tid)

    def get_regs(self, tid: int) -> list[int]:
        ptrace(PTRACE_GETREGS, tid, 0, self._regs_at)
        return list(REGS.unpack(self._regs))

    def set_regs(self, tid: int, regs: list[int]) -> None:
        REGS.pack_into(self._regs, 0, *regs)
        ptrace(PTRACE_SETREGS, tid, 0, self._regs_at)

    def get_fault(self, tid: int) -> tuple[int, int]:
        """si_code and si_addr of the signal about to be delivered."""
        ptrace(PTRACE_GETSIGINFO, tid, 0, self._siginfo_at)
        _signo, _errno, code, addr = SIGINFO.unpack_from(self._siginfo)
        return code, addr

    def set_fault(self, tid: int, signal: int, code: int, addr: int) -> None:
        SIGINFO.pack_into(self._siginfo, 0, signal, 0, code, addr)
        ptrace(PTRACE_SETSIGINFO, tid, 0, self._siginfo_at)

    def event_message(self, tid: int) -> int:
        ptrace(PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(self._message))
        return self._message.value

    def get_vectors(self, tid: int) -> Vectors:
        area = bytearray(XSAVE_ROOM)
        io = Iovec(_address(area), XSAVE_ROOM)
        ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(io))
        return Vectors(area, io.length, self.layout)

    def set_vectors(self, tid: int, vectors: Vectors) -> None:
        io = Iovec(_address(vectors.area), vectors.length)
        ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(io))


class VectorLayout:
    """Where in the XSAVE area the upper parts of the vector registers are: CPUID leaf 13."""

    # push rbx; mov r8,rdx; mov eax,edi; mov ecx,esi; cpuid; mov [r8],eax; mov [r8+4],ebx; pop rbx; ret
    CPUID = bytes.fromhex("53 4989d0 89f8 89f1 0fa2 418900 41895804 5b c3")

    def __init__(self) -> None:
        self.offset = {part: self._offset(part) for part in (AVX, ZMM_HIGH, ZMM_16_31)}

    def _offset(self, part: int) -> int:
        with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
            page[: len(self.CPUID)] = self.CPUID
            out = (ctypes.c_uint32 * 2)()
            code = ctypes.addressof(ctypes.c_char.from_buffer(page))
            cpuid = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(code)
            cpuid(13, part, ctypes.addressof(out))
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
