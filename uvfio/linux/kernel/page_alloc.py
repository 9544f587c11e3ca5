# SPDX-License-Identifier: GPL-2.0-only
"""
Which physical addresses the memory of the machine has. Stands for ``mm/page_alloc.c``.

Difference from Linux: nothing is allocated here. Memory belongs to whoever has it, and
gets an address when somebody asks for it. No address is given twice, ordinary
pages never lie next to each other, and huge pages are as contiguous as they are large.
"""

from __future__ import annotations

from uvfio.runtime.task import per_machine

PAGE_SIZE = 4096
FIRST_PHYS = 1 << 40  # above all registers
BLOCK_PAGES = 512  # whose addresses are found together


class PhysicalMemory:
    """What is the next free physical address?"""

    def __init__(self) -> None:
        self.next = FIRST_PHYS


physical_memory = per_machine(PhysicalMemory)


def alloc_contig_range(length: int) -> int:
    """Physically contiguous memory for *length* bytes, aligned as the page allocator does; its address."""
    memory = physical_memory()
    size = 1 << max(length - 1, PAGE_SIZE - 1).bit_length()
    start = -(-memory.next // size) * size
    # What comes next must not seem to belong to it.
    memory.next = start + size + PAGE_SIZE
    return start


class Frames:
    """The physical addresses of one object (an address space, a file), by its own addresses."""

    __slots__ = ("__weakref__", "blocks")

    def __init__(self) -> None:
        self.blocks: dict[int | tuple[int, int], int] = {}

    def phys(self, at: int, page_size: int = PAGE_SIZE) -> int:
        """The physical address of the byte *at*, which lies in a page of *page_size*."""
        if page_size != PAGE_SIZE:
            index, offset = divmod(at, page_size)
            key: int | tuple[int, int] = (page_size, index)
            size = page_size
        else:
            index, rest = divmod(at, PAGE_SIZE)
            key, index = divmod(index, BLOCK_PAGES)
            # A page that belongs to nobody behind each.
            offset, size = 2 * PAGE_SIZE * index + rest, 2 * PAGE_SIZE * BLOCK_PAGES
        start = self.blocks.get(key)
        if start is None:
            start = self.blocks[key] = alloc_contig_range(size)
        return start + offset


def contiguous_in(at: int, page_size: int) -> int:
    """How many bytes from *at* on are in the same page of *page_size*."""
    return page_size - at % page_size
