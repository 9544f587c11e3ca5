# SPDX-License-Identifier: GPL-2.0-only
"""
The registers of one BAR as plain memory that a client and the supervisor share.

A write is found by comparing the memory with what was there when it was last looked at.
Who shares it: ``polling.py``, which has the limits, too.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from uvfio.devices.kit import PciDevice, Register

DOORBELL_SIZE = 4
LINE = 64


@dataclass(frozen=True)
class Word:
    """*size* bytes at *offset* of the BAR: *register*, or a doorbell (None)."""

    offset: int
    size: int
    register: Register | None

    def of(self, data: bytes | bytearray) -> bytes:
        return bytes(data[self.offset : self.offset + self.size])


class PolledWindow:
    """The start of BAR *bar* of *model*, as long as *memory*, which is what the client has mapped."""

    def __init__(self, model: PciDevice, bar: int, memory: mmap.mmap) -> None:
        self.model = model
        self.bar = bar
        self._memory = memory
        self._words = sorted(words(model, bar), key=_order)
        self._lines: dict[int, list[Word]] = {}  # by where a line of LINE bytes starts, what is in it
        for word in self._words:
            self._lines.setdefault(word.offset // LINE * LINE, []).append(word)
        # Stored through these, for a client must never read half of an old and half of a new value.
        flat = memoryview(memory)
        self._views = {1: flat, 2: flat.cast("H"), 4: flat.cast("I"), 8: flat.cast("Q")}
        self._seen = bytearray(memory)

    def fill(self) -> None:
        """The memory is new: put there what a client reads at first."""
        self._memory[:] = self.model.nothing(4).to_bytes(4, "little") * (len(self._memory) // 4)
        for word in self._words:
            if word.register is None:
                self._views[word.size][word.offset // word.size] = 0
        self._seen[:] = self._memory[:]
        self.show()

    def changed(self) -> bool:
        return self._memory[:] != self._seen

    def take(self) -> list[tuple[Word, int]]:
        """
        What the client has written since, in the order in which the device shall hear of it:
        first what only is kept, then acknowledgements (what is write-only, or cleared by a one),
        then what acts, then doorbells.
        """
        now = self._memory[:]
        seen = bytes(self._seen)
        lines = [self._lines[at] for at in self._lines if now[at : at + LINE] != seen[at : at + LINE]]
        written = sorted((word for line in lines for word in line if word.of(now) != word.of(seen)), key=_order)
        self._seen[:] = now
        return [(word, int.from_bytes(word.of(now), "little")) for word in written]

    def show(self) -> None:
        """Put the value of every register there, but what the client has written just now."""
        for word in self._words:
            if word.register is None:
                continue  # stays as it was written: a store of ours could hide the next write
            value = self.model.bar_read(self.bar, word.offset, word.size)
            data = value.to_bytes(word.size, "little")
            if data != word.of(self._seen) and word.of(self._memory[:]) == word.of(self._seen):
                self._views[word.size][word.offset // word.size] = value
                self._seen[word.offset : word.offset + word.size] = data

    def close(self) -> None:
        for size in sorted(self._views, reverse=True):  # the first is what the others are made of
            self._views[size].release()
        self._memory.close()


def words(model: PciDevice, bar: int) -> Iterator[Word]:
    """All that is looked at in BAR *bar*; a doorbell hides the register that describes it."""
    doorbells = model.doorbells.get(bar, range(0))
    for offset in range(doorbells.start, doorbells.stop, DOORBELL_SIZE):
        yield Word(offset, DOORBELL_SIZE, None)
    for (index, offset), register in model.registers.items():
        if index == bar and offset not in doorbells:
            yield Word(offset, register.size, register)


def _order(word: Word) -> tuple[int, int]:
    if word.register is None:
        return 3, word.offset
    if word.register.access in ("wo", "w1c"):
        return 1, word.offset  # it acknowledges what the client knows, and that is from before the rest
    return 2 if word.register.writer is not None else 0, word.offset
