# SPDX-License-Identifier: GPL-2.0-only
"""
A bitmap in user memory that says which IOVAs are dirty. Mirrors ``drivers/iommu/iommufd/iova_bitmap.c``.

Difference from Linux: the pages of the bitmap are not pinned; only the bytes that get bits are touched.
"""

from __future__ import annotations

from collections.abc import Iterable

from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user

NEAR = 64  # bytes: what lies closer together is written at once


class IovaBitmap:
    """``struct iova_bitmap``: a bit for each *page_size* from *iova* on, at the user address *data*."""

    def __init__(self, iova: int, page_size: int, data: int) -> None:
        self.iova = iova
        # As in Linux, only the lowest bit of a page size counts.
        self.pgshift = (page_size & -page_size).bit_length() - 1
        self.data = data

    def set(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Set the bits of *pieces* (address, length), which ascend. Errno EFAULT: some may be set."""
        first = last = -1  # bits of the run that is being gathered
        runs: list[tuple[int, int]] = []  # that are close together
        for start, length in pieces:
            low = (start - self.iova) >> self.pgshift
            high = (start + length - 1 - self.iova) >> self.pgshift
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
        bits = int.from_bytes(copy_from_user(self.data + at, end - at), "little")
        for first, last in runs:
            bits |= ((1 << last + 1 - first) - 1) << (first - 8 * at)
        copy_to_user(self.data + at, bits.to_bytes(end - at, "little"))
