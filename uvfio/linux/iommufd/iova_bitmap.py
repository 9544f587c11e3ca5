# SPDX-License-Identifier: GPL-2.0-only
"""
A bitmap in user memory that says which IOVAs are dirty. Mirrors ``drivers/iommu/iommufd/iova_bitmap.c``.

Difference from Linux: the pages of the bitmap are not pinned; only the bytes that get bits are touched.

As in Linux 7.3.4: a leaf has all its bits set that lie in the pages of the bitmap, also
those behind what was asked for; one that begins before what was asked for has none.
"""

from __future__ import annotations

from collections.abc import Iterable

from uvfio.linux.iommufd.private import PAGE_MASK, PAGE_SIZE
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.runtime.errors import Errno

WORD = 8  # bytes: a bitmap is made of these
NEAR = 64  # bytes: what lies closer together is written at once


class IovaBitmap:
    """``struct iova_bitmap``: a bit for each *page_size* of a range, at the user address *data*."""

    def __init__(self, iova: int, length: int, page_size: int, data: int) -> None:
        self.iova = iova
        self.length = length
        # As in Linux, only the lowest bit of a page size counts.
        self.pgshift = (page_size & -page_size).bit_length() - 1
        self.data = data
        size = -(-(((length - 1) >> self.pgshift) + 1) // (8 * WORD)) * WORD
        pages = -(-((data & PAGE_MASK) + size) // PAGE_SIZE)
        self.bits = 8 * (pages * PAGE_SIZE - (data & PAGE_MASK))  # in the pages that it touches

    def set(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Set the bits of *pieces* (address, length), which ascend. Errno EFAULT: some may be set."""
        first = last = -1  # bits of the run that is being gathered
        runs: list[tuple[int, int]] = []  # that are close together
        for start, length in pieces:
            low = (start - self.iova) >> self.pgshift
            high = min((start + length - 1 - self.iova) >> self.pgshift, self.bits - 1)
            if start < self.iova or low > high:
                continue
            if first >= 0 and low <= last + 1:
                last = max(last, high)
                continue
            if first >= 0:
                runs.append((first, last))
                if low // 8 - last // 8 > NEAR:
                    self._store(runs)
                    runs = []
            first, last = low, high
        if first >= 0:
            self._store([*runs, (first, last)])

    def _store(self, runs: list[tuple[int, int]]) -> None:
        at, end = runs[0][0] // 8, runs[-1][1] // 8 + 1
        bits = sum(((1 << last + 1 - first) - 1) << (first - 8 * at) for first, last in runs)
        try:
            self._store_bytes(at, bits.to_bytes(end - at, "little"))
        except Errno:
            self._store_pages(at, bits.to_bytes(end - at, "little"))

    def _store_pages(self, at: int, data: bytes) -> None:
        """Up to the first page of the bitmap that cannot be had. Errno EFAULT."""
        while data:
            n = PAGE_SIZE - (self.data + at & PAGE_MASK)
            self._store_bytes(at, data[:n])
            at, data = at + n, data[n:]

    def _store_bytes(self, at: int, data: bytes) -> None:
        was = int.from_bytes(copy_from_user(self.data + at, len(data)), "little")
        copy_to_user(self.data + at, (was | int.from_bytes(data, "little")).to_bytes(len(data), "little"))
