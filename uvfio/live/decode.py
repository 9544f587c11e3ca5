# SPDX-License-Identifier: GPL-2.0-only
"""
Decode the one instruction that touched device memory.

What is understood: moves of 1 to 8 bytes in both directions (mov, movzx, movsx, movsxd,
movnti, movbe), arithmetic with memory as source or destination (add ... xadd, cmpxchg,
bts, with or without lock), the string moves, and vector moves of up to 64 bytes (SSE,
AVX, AVX-512 without a mask). Everything else is None, and for ``singlestep.py``.

A decoded instruction depends on its bytes only, so it is kept and found again by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import iced_x86
from iced_x86 import EncodingKind, MemorySizeExt, Mnemonic, OpKind, Register, RegisterExt

from uvfio.live.operands import FS_BASE, GPR, GS_BASE, RIP, Gpr, Immediate, Memory, Operand, Vector

MAX_LENGTH = 15
KEPT = 4096  # decoded instructions, before we forget them all


@dataclass(frozen=True)
class Insn:
    """*name* is a key of ``emulate.ACTIONS``."""

    name: str
    length: int
    operands: tuple[Operand, ...]
    size: int  # of the memory operand
    rep: bool = False
    wide: bool = False  # VEX and EVEX clear the rest of a vector register
    address_mask: int = (1 << 64) - 1


SCALAR = (
    "MOV MOVZX MOVSX MOVSXD MOVNTI MOVBE ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT XCHG XADD CMPXCHG "
    "BT BTS BTR BTC"
)
VECTOR = (
    "MOVDQA MOVDQU MOVAPS MOVUPS MOVAPD MOVUPD MOVNTPS MOVNTPD MOVNTDQ MOVNTDQA LDDQU MOVQ MOVD MOVSS MOVSD "
    "VMOVDQA VMOVDQU VMOVAPS VMOVUPS VMOVAPD VMOVUPD VMOVNTPS VMOVNTPD VMOVNTDQ VMOVNTDQA VLDDQU VMOVQ VMOVD VMOVSS "
    "VMOVSD VMOVDQA32 VMOVDQA64 VMOVDQU8 VMOVDQU16 VMOVDQU32 VMOVDQU64"
)
STRINGS = {
    f"{name}{letter}": (name.lower(), size)
    for name in ("MOVS", "STOS", "LODS")
    for letter, size in (("B", 1), ("W", 2), ("D", 4), ("Q", 8))
}


def _numbered(names: str, action: str | None = None) -> dict[int, str]:
    return {getattr(Mnemonic, name): action or name.lower() for name in names.split()}


_ACTIONS = (
    _numbered(SCALAR)
    | _numbered(VECTOR, "vector")
    | _numbered("MOVLPS MOVLPD", "low")
    | _numbered("MOVHPS MOVHPD", "high")
)
_STRINGS = {getattr(Mnemonic, name): what for name, what in STRINGS.items()}
_IMMEDIATES = {
    getattr(OpKind, "IMMEDIATE" + name) for name in ("8", "16", "32", "64", "8TO16", "8TO32", "8TO64", "32TO64")
}


class InsnDecoder:
    """Decodes, and remembers."""

    def __init__(self) -> None:
        self._known: dict[bytes, Insn | None] = {}

    def decode(self, code: bytes) -> Insn | None:
        """The instruction that *code* starts with (there may be more); None if it is not one of ours."""
        if code not in self._known:
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[code] = _decode(iced_x86.Decoder(64, code).decode())
        return self._known[code]


def describe(code: bytes) -> str:
    """The instruction in Intel syntax, for a message."""
    insn = iced_x86.Decoder(64, code).decode()
    return f"{insn} ({code[: insn.len].hex(' ')})"


def _decode(insn: iced_x86.Instruction) -> Insn | None:
    if insn.is_string_instruction:
        return _decode_string(insn)
    name = _ACTIONS.get(insn.mnemonic)
    if name is None or insn.op_mask != Register.NONE:
        return None
    operands: list[Operand] = []
    for i in range(insn.op_count):
        operand = _operand(insn, i)
        if operand is None:
            return None
        operands.append(operand)
    memories = [o for o in operands if isinstance(o, Memory)]
    if len(memories) != 1:
        return None
    wide = insn.encoding != EncodingKind.LEGACY
    return Insn(name, insn.len, tuple(operands), memories[0].size, wide=wide)


def _decode_string(insn: iced_x86.Instruction) -> Insn | None:
    what = _STRINGS.get(insn.mnemonic)
    if what is None:
        return None
    kinds = {insn.op_kind(i) for i in range(insn.op_count)}
    short = bool(kinds & {OpKind.MEMORY_SEG_ESI, OpKind.MEMORY_ESEDI})
    if insn.memory_segment in (Register.FS, Register.GS):
        return None
    rep = insn.has_rep_prefix or insn.has_repne_prefix
    return Insn(what[0], insn.len, (), what[1], rep=rep, address_mask=0xFFFFFFFF if short else (1 << 64) - 1)


def _operand(insn: iced_x86.Instruction, i: int) -> Operand | None:
    kind = insn.op_kind(i)
    if kind == OpKind.REGISTER:
        return _register(insn.op_register(i))
    if kind == OpKind.MEMORY:
        return _memory(insn)
    if kind in _IMMEDIATES:
        return Immediate(insn.immediate(i))
    return None


def _register(register: Any) -> Operand | None:
    number, size = RegisterExt.number(register), RegisterExt.size(register)
    if RegisterExt.is_gpr8(register):
        if Register.AH <= register <= Register.BH:
            return Gpr(GPR[number - 4], 1, 8)
        return Gpr(GPR[number - 4 if number >= 8 else number], 1)
    if RegisterExt.is_gpr(register):
        return Gpr(GPR[number], size)
    if RegisterExt.is_vector_register(register):
        return Vector(number, size)
    return None


def _memory(insn: iced_x86.Instruction) -> Memory:
    base, index = insn.memory_base, insn.memory_index
    short = RegisterExt.size(base) == 4 or RegisterExt.size(index) == 4
    return Memory(
        base=_address_register(base),
        index=_address_register(index),
        scale=insn.memory_index_scale,
        displacement=insn.memory_displacement,  # decoded at 0, so for rip it counts from the start of the instruction
        segment={Register.FS: FS_BASE, Register.GS: GS_BASE}.get(insn.memory_segment),
        mask=0xFFFFFFFF if short else (1 << 64) - 1,
        size=MemorySizeExt.size(insn.memory_size),
    )


def _address_register(register: Any) -> int | None:
    if register in (Register.RIP, Register.EIP):
        return RIP
    return None if register == Register.NONE else GPR[RegisterExt.number(register)]
