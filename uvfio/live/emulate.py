# SPDX-License-Identifier: GPL-2.0-only
"""
Do what one instruction does, with memory and registers that are given.

Differences from a processor: an access wider than 8 bytes reaches the device in pieces
of 8, lowest address first; ``lock`` is not a bus lock (but all accesses of a process are
done one after the other); flags that the architecture leaves undefined keep their value.
"""

from __future__ import annotations

from collections.abc import Callable

from uvfio.live.decode import Insn
from uvfio.live.operands import EFLAGS, RAX, RCX, RDI, RIP, RSI, WORD, Cpu, Gpr, Memory, Vector, load, store

CF, PF, AF, ZF, SF, DF, OF = 1, 4, 0x10, 0x40, 0x80, 0x400, 0x800
ALL = CF | PF | AF | ZF | SF | OF
CHUNK = 512  # elements of a repeated string instruction done at a time; then signals have a chance


def execute(insn: Insn, cpu: Cpu) -> None:
    """Carry *insn* out and move rip on."""
    done = ACTIONS[insn.name](insn, cpu)
    if done is not False:
        cpu.regs[RIP] = cpu.regs[RIP] + insn.length & WORD


def signed(value: int, size: int) -> int:
    return value - (1 << 8 * size) if value >> 8 * size - 1 else value


def set_flags(cpu: Cpu, which: int, value: int) -> None:
    cpu.regs[EFLAGS] = cpu.regs[EFLAGS] & ~which & WORD | value & which


def result_flags(result: int, size: int) -> int:
    """PF, ZF and SF of a result."""
    flags = PF if (result & 0xFF).bit_count() % 2 == 0 else 0
    return flags | (ZF if result == 0 else 0) | (SF if result >> 8 * size - 1 else 0)


def add(a: int, b: int, carry: int, size: int) -> tuple[int, int]:
    """The sum and all its flags."""
    total = a + b + carry
    result = total & (1 << 8 * size) - 1
    flags = result_flags(result, size) | (CF if total != result else 0) | (AF if (a ^ b ^ result) & 0x10 else 0)
    return result, flags | (OF if (a ^ result) & (b ^ result) & 1 << 8 * size - 1 else 0)


def subtract(a: int, b: int, borrow: int, size: int) -> tuple[int, int]:
    total = a - b - borrow
    result = total & (1 << 8 * size) - 1
    flags = result_flags(result, size) | (CF if total < 0 else 0) | (AF if (a ^ b ^ result) & 0x10 else 0)
    return result, flags | (OF if (a ^ b) & (a ^ result) & 1 << 8 * size - 1 else 0)


Arithmetic = Callable[[int, int, int, int], tuple[int, int]]  # of a, b, carry, size: the result and its flags


def _logic(operation: Callable[[int, int], int]) -> Arithmetic:
    def arithmetic(a: int, b: int, _carry: int, size: int) -> tuple[int, int]:
        result = operation(a, b)
        return result, result_flags(result, size)

    return arithmetic


ARITHMETIC: dict[str, Arithmetic] = {
    "add": lambda a, b, _carry, size: add(a, b, 0, size),
    "adc": add,
    "sub": lambda a, b, _carry, size: subtract(a, b, 0, size),
    "cmp": lambda a, b, _carry, size: subtract(a, b, 0, size),
    "sbb": subtract,
    "and": _logic(lambda a, b: a & b),
    "test": _logic(lambda a, b: a & b),
    "or": _logic(lambda a, b: a | b),
    "xor": _logic(lambda a, b: a ^ b),
}


def _arithmetic(insn: Insn, cpu: Cpu) -> None:
    target, source = insn.operands
    carry = cpu.regs[EFLAGS] & CF
    a, b = target.get(insn.size, cpu), source.get(insn.size, cpu)
    result, flags = ARITHMETIC[insn.name](a, b, carry, insn.size)
    if insn.name not in ("cmp", "test"):
        target.put(result, cpu)
    set_flags(cpu, ALL, flags)


def _one_operand(insn: Insn, cpu: Cpu) -> None:
    (target,) = insn.operands
    value, size = target.get(insn.size, cpu), insn.size
    if insn.name == "not":
        target.put(~value & (1 << 8 * size) - 1, cpu)
        return
    if insn.name == "neg":
        result, flags = subtract(0, value, 0, size)
    else:
        result, flags = (add if insn.name == "inc" else subtract)(value, 1, 0, size)
    target.put(result, cpu)
    set_flags(cpu, ALL if insn.name == "neg" else ALL & ~CF, flags)


def _move(insn: Insn, cpu: Cpu) -> None:
    target, source = insn.operands
    value = source.get(insn.size, cpu)
    if insn.name in ("movsx", "movsxd"):
        value = signed(value, insn.size)
    elif insn.name == "movbe":
        value = int.from_bytes(value.to_bytes(insn.size, "little"), "big")
    target.put(value, cpu)


def _exchange(insn: Insn, cpu: Cpu) -> None:
    first, second = insn.operands
    a, b = first.get(insn.size, cpu), second.get(insn.size, cpu)
    # Memory first: if that fails nothing has happened.
    if isinstance(first, Memory):
        first.put(b, cpu)
        second.put(a, cpu)
    else:
        second.put(a, cpu)
        first.put(b, cpu)


def _exchange_and_add(insn: Insn, cpu: Cpu) -> None:
    memory, register = insn.operands
    old = memory.get(insn.size, cpu)
    result, flags = add(old, register.get(insn.size, cpu), 0, insn.size)
    memory.put(result, cpu)
    register.put(old, cpu)
    set_flags(cpu, ALL, flags)


def _compare_exchange(insn: Insn, cpu: Cpu) -> None:
    memory, register = insn.operands
    accumulator = Gpr(RAX, insn.size)
    old, expected = memory.get(insn.size, cpu), accumulator.get(insn.size, cpu)
    memory.put(register.get(insn.size, cpu) if old == expected else old, cpu)
    if old != expected:
        accumulator.put(old, cpu)
    set_flags(cpu, ALL, subtract(expected, old, 0, insn.size)[1])


def _bit(insn: Insn, cpu: Cpu) -> None:
    memory, source = insn.operands
    assert isinstance(memory, Memory)
    bits, addr = 8 * insn.size, memory.address(cpu)
    if isinstance(source, Gpr):
        # A bit number in a register may lie outside of the operand.
        number = signed(source.get(insn.size, cpu), insn.size)
        addr = addr + (number // bits) * insn.size & WORD
    else:
        number = source.get(1, cpu)
    value, bit = load(cpu, addr, insn.size), 1 << number % bits
    if insn.name != "bt":
        new = {"bts": value | bit, "btr": value & ~bit, "btc": value ^ bit}[insn.name]
        store(cpu, addr, insn.size, new)
    set_flags(cpu, CF, CF if value & bit else 0)


def _vector(insn: Insn, cpu: Cpu) -> None:
    target, source = insn.operands
    value = source.get(insn.size, cpu)
    if isinstance(target, Vector):
        cpu.set_vector(target.number, 64 if insn.wide else 16, value)
    else:
        target.put(value, cpu)


def _half(insn: Insn, cpu: Cpu) -> None:
    target, source = insn.operands
    shift = 64 if insn.name == "high" else 0
    if isinstance(target, Vector):
        value, old = source.get(8, cpu), cpu.get_vector(target.number, 16)
        cpu.set_vector(target.number, 16, old & ~(WORD << shift) | value << shift)
    else:
        target.put(source.get(16, cpu) >> shift & WORD, cpu)


def _string(insn: Insn, cpu: Cpu) -> bool:
    """False: interrupted between two elements, to be entered again at the same rip."""
    regs, size, mask = cpu.regs, insn.size, insn.address_mask
    step = -size if regs[EFLAGS] & DF else size
    count = regs[RCX] & mask if insn.rep else 1
    for _ in range(min(count, CHUNK)):
        value = regs[RAX] & (1 << 8 * size) - 1 if insn.name == "stos" else cpu.load(regs[RSI] & mask, size)
        if insn.name == "lods":
            Gpr(RAX, size).put(value, cpu)
        else:
            cpu.store(regs[RDI] & mask, size, value)
        # Each element is final: if the next one fails, the instruction starts again there.
        if insn.name != "lods":
            regs[RDI] = regs[RDI] + step & mask
        if insn.name != "stos":
            regs[RSI] = regs[RSI] + step & mask
        if insn.rep:
            regs[RCX] = regs[RCX] - 1 & mask
    return count <= CHUNK


ACTIONS: dict[str, Callable[[Insn, Cpu], bool | None]] = {
    **dict.fromkeys(ARITHMETIC, _arithmetic),
    **dict.fromkeys(("inc", "dec", "neg", "not"), _one_operand),
    **dict.fromkeys(("mov", "movzx", "movsx", "movsxd", "movnti", "movbe"), _move),
    **dict.fromkeys(("bt", "bts", "btr", "btc"), _bit),
    **dict.fromkeys(("movs", "stos", "lods"), _string),
    **dict.fromkeys(("low", "high"), _half),
    "xchg": _exchange,
    "xadd": _exchange_and_add,
    "cmpxchg": _compare_exchange,
    "vector": _vector,
}
