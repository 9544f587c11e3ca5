# SPDX-License-Identifier: GPL-2.0-only
"""
Several system calls in one go. x86-64 only.

Python and ctypes take longer for a short system call than the kernel does. Where the same
few follow each other at every event they are written down once, as numbers in memory, and
done by a loop of machine code.
"""

from __future__ import annotations

import ctypes
import mmap

WORDS = 8  # of a record: the number of the call, six arguments, the result
RESULT = 7

# rdi: the first record, rsi: how many. Returns how many are left, with the one that failed.
LOOP = (
    ("53", "push rbx"),
    ("55", "push rbp"),
    ("48 89 fb", "mov rbx, rdi"),
    ("48 89 f5", "mov rbp, rsi"),
    ("48 8b 03", "next: mov rax, [rbx]"),
    ("48 8b 7b 08", "mov rdi, [rbx + 0x8]"),
    ("48 8b 73 10", "mov rsi, [rbx + 0x10]"),
    ("48 8b 53 18", "mov rdx, [rbx + 0x18]"),
    ("4c 8b 53 20", "mov r10, [rbx + 0x20]"),
    ("4c 8b 43 28", "mov r8, [rbx + 0x28]"),
    ("4c 8b 4b 30", "mov r9, [rbx + 0x30]"),
    ("0f 05", "syscall"),
    ("48 89 43 38", "mov [rbx + 0x38], rax"),
    ("48 85 c0", "test rax, rax"),
    ("78 09", "js out"),
    ("48 83 c3 40", "add rbx, 0x40"),
    ("48 ff cd", "dec rbp"),
    ("75 d1", "jnz next"),
    ("48 89 e8", "out: mov rax, rbp"),
    ("5d", "pop rbp"),
    ("5b", "pop rbx"),
    ("c3", "ret"),
)


def machine_code(code: bytes) -> tuple[mmap.mmap, int]:
    """An executable page with *code*, and its address. The code is there as long as the page is."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page[: len(code)] = code
    return page, address_of(page)


class CallLoop:
    """The machine code; for any number of :class:`SystemCalls`."""

    def __init__(self) -> None:
        self._page, at = machine_code(bytes.fromhex("".join(code for code, _text in LOOP)))
        signature = (ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t)
        self.brief = ctypes.PYFUNCTYPE(*signature)(at)  # keeps the interpreter's lock
        self.waiting = ctypes.CFUNCTYPE(*signature)(at)


class SystemCalls:
    """
    *count* calls, to be filled in with :meth:`set`; what they returned is in :attr:`results`.
    Arguments are 64 bits without a sign. Not for several threads at a time.
    """

    def __init__(self, loop: CallLoop, count: int) -> None:
        records = bytearray(8 * WORDS * count)
        self.words = memoryview(records).cast("Q")
        self.results = memoryview(records).cast("q")[RESULT::WORDS]
        self._loop = loop
        self._at = address_of(records)

    def set(self, index: int, number: int, *args: int) -> None:
        at = WORDS * index
        for i, word in enumerate((number, *args)):
            self.words[at + i] = word

    def run(self, first: int, count: int) -> int:
        """
        Do *count* calls from *first* on, none of which waits. They end at the first that
        fails; returns how many were done before it.
        """
        return count - int(self._loop.brief(self._at + 8 * WORDS * first, count))

    def wait(self, first: int, count: int) -> int:
        """The same for calls that may wait: other threads run meanwhile."""
        return count - int(self._loop.waiting(self._at + 8 * WORDS * first, count))


def argument(index: int, number: int) -> int:
    """Where in ``SystemCalls.words`` argument *number* (from 0) of call *index* is."""
    return WORDS * index + 1 + number


def address_of(area: bytearray | mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))
