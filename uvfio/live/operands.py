# SPDX-License-Identifier: GPL-2.0-only
"""What an instruction reads and writes: registers, numbers in its code, and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

WORD = (1 << 64) - 1

# Where the registers are in struct user_regs_struct, by their number in the instruction set.
GPR = (10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0)
RAX, RCX, RSI, RDI, RIP, EFLAGS, FS_BASE, GS_BASE = 10, 11, 13, 14, 16, 18, 21, 22


class Registers(Protocol):
    """``struct user_regs_struct``: 27 numbers of 64 bits."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class Cpu(Protocol):
    """The thread whose instruction it is. What *load* and *store* raise ends the instruction undone."""

    @property
    def regs(self) -> Registers: ...

    def load(self, addr: int, size: int) -> int: ...

    def store(self, addr: int, size: int, value: int) -> None: ...

    def get_vector(self, number: int, size: int) -> int: ...

    def set_vector(self, number: int, size: int, value: int) -> None: ...


@dataclass(frozen=True)
class Gpr:
    """A general register or a part of it."""

    index: int  # in user_regs_struct
    size: int
    shift: int = 0  # 8 for ah, ch, dh, bh

    def get(self, size: int, cpu: Cpu) -> int:
        return cpu.regs[self.index] >> self.shift & (1 << 8 * size) - 1

    def put(self, value: int, cpu: Cpu) -> None:
        if self.size == 4:
            cpu.regs[self.index] = value & 0xFFFFFFFF
        else:
            mask = (1 << 8 * self.size) - 1 << self.shift
            cpu.regs[self.index] = cpu.regs[self.index] & ~mask & WORD | value << self.shift & mask


@dataclass(frozen=True)
class Vector:
    """xmm, ymm or zmm *number*. What becomes of its upper parts is for the instruction to say."""

    number: int
    size: int

    def get(self, size: int, cpu: Cpu) -> int:
        return cpu.get_vector(self.number, size)

    def put(self, value: int, cpu: Cpu) -> None:
        cpu.set_vector(self.number, self.size, value)


@dataclass(frozen=True)
class Immediate:
    value: int

    def get(self, size: int, _cpu: Cpu) -> int:
        return self.value & (1 << 8 * size) - 1

    def put(self, _value: int, _cpu: Cpu) -> None:
        raise AssertionError("a number in the code is never a target")


@dataclass(frozen=True)
class Memory:
    """An address: registers by their index in user_regs_struct, or None."""

    base: int | None
    index: int | None
    scale: int
    displacement: int
    segment: int | None
    mask: int
    size: int

    def address(self, cpu: Cpu) -> int:
        addr = self.displacement
        if self.base is not None:
            addr += cpu.regs[self.base]
        if self.index is not None:
            addr += cpu.regs[self.index] * self.scale
        addr &= self.mask
        return addr if self.segment is None else addr + cpu.regs[self.segment] & WORD

    def get(self, size: int, cpu: Cpu) -> int:
        addr = self.address(cpu)
        return cpu.load(addr, size) if size <= 8 else load(cpu, addr, size)

    def put(self, value: int, cpu: Cpu) -> None:
        store(cpu, self.address(cpu), self.size, value)


Operand = Gpr | Vector | Immediate | Memory


def load(cpu: Cpu, addr: int, size: int) -> int:
    value = 0
    for at in range(0, size, 8):
        value |= cpu.load(addr + at & WORD, min(8, size - at)) << 8 * at
    return value


def store(cpu: Cpu, addr: int, size: int, value: int) -> None:
    for at in range(0, size, 8):
        piece = min(8, size - at)
        cpu.store(addr + at & WORD, piece, value >> 8 * at & (1 << 8 * piece) - 1)
