# SPDX-License-Identifier: GPL-2.0-only
"""
Which pages of an iopt_pages are pinned, in runs, and who is charged for them.

Mirrors the second half of ``drivers/iommu/iommufd/pages.c``, where the differences are
listed: see ``pages.py``. Callers hold ``iopt_pages.mutex``.
"""

from __future__ import annotations

from bisect import bisect_right
from errno import ENOMEM
from typing import Any

from uvfio.linux.iommufd.private import (
    IOPT_PAGES_ACCOUNT_MM,
    IOPT_PAGES_ACCOUNT_NONE,
    PAGE_MASK,
    PAGE_SIZE,
    IoptPages,
)
from uvfio.linux.kernel.bug import WARN_ON
from uvfio.linux.kernel.process import CAP_IPC_LOCK, PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import per_machine


class UserStruct:
    """``struct user_struct`` of the one user there is."""

    def __init__(self) -> None:
        self.locked_vm = 0


class PinnedRegistry:
    """Which ``struct iopt_pages`` have pages pinned; on Linux the pages count that themselves."""

    def __init__(self) -> None:
        self.pages: set[IoptPages] = set()


user_struct = per_machine(UserStruct)
pinned_registry = per_machine(PinnedRegistry)


class PinRun:
    """
    Pages *first* to *last* of an iopt_pages, which are pinned: they are in *memory* from
    byte *offset* on. Areas and accesses use them *users* times.
    """

    __slots__ = ("first", "last", "memory", "offset", "users")

    def __init__(self, first: int, last: int, memory: SharedPin, offset: int, users: int) -> None:
        self.first = first
        self.last = last
        self.memory = memory
        self.offset = offset
        self.users = users


class SharedPin:
    """Pinned memory that several runs may be parts of; unpinned with the last."""

    __slots__ = ("memory", "runs")

    def __init__(self, memory: PinnedPages) -> None:
        self.memory = memory
        self.runs = 1


class PinnedRuns:
    """Pages of several runs, one after the other: :class:`PinnedPages`, unpinned run by run."""

    def __init__(self, runs: list[PinRun]) -> None:
        base = runs[0].first
        self.starts = [(run.first - base) * PAGE_SIZE for run in runs]
        self.parts = [(run.memory.memory, run.offset) for run in runs]
        self.length = (runs[-1].last + 1 - base) * PAGE_SIZE

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            memory, at, n = self._part(offset + done)
            memory.read_into(at, buffer[done : done + n])
            done += n

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        view, done = memoryview(data), 0
        while done < len(view):
            memory, at, n = self._part(offset + done)
            memory.write_from(at, view[done : done + n])
            done += n

    def phys(self, offset: int) -> int:
        memory, at, _n = self._part(offset)
        return memory.phys(at)

    def contiguous(self, offset: int) -> int:
        memory, at, n = self._part(offset)
        found = min(memory.contiguous(at), n)
        while found == n and offset + n < self.length:
            # A huge page of which parts have been pinned at different times is one all the same.
            if self.phys(offset + n) != memory.phys(at) + n:
                break
            following, where, more = self._part(offset + n)
            found = n + min(following.contiguous(where), more)
            n += more
        return found

    def unpin(self) -> None:
        """See :func:`unpin`."""

    def _part(self, offset: int) -> tuple[PinnedPages, int, int]:
        """Where *offset* is, and how many bytes of that part there are from there on."""
        index = bisect_right(self.starts, offset) - 1
        memory, base = self.parts[index]
        end = self.starts[index + 1] if index + 1 < len(self.starts) else self.length
        return memory, base + offset - self.starts[index], end - offset


def page_pins(phys: int) -> int:
    """How many iopt_pages have the page at the physical address *phys* pinned."""
    page = phys & ~PAGE_MASK
    return sum(_has_page(pages, page) for pages in pinned_registry().pages)


def _has_page(pages: IoptPages, page: int) -> bool:
    return any(
        run.memory.memory.phys(run.offset + at) & ~PAGE_MASK == page
        for run in pages.runs
        for at in range(0, (run.last + 1 - run.first) * PAGE_SIZE, PAGE_SIZE)
    )


def pin(pages: IoptPages, first: int, last: int) -> tuple[PinnedPages, int]:
    """
    One user more for the pages *first* to *last*; answers the memory, and the byte in it
    where they begin. Errno: nothing has changed then.
    """
    if pages.dmabuf is not None:
        return pages.dmabuf.memory, 0
    if not pages.runs:  # nearly always: one area, one user
        memory = _pin_source(pages, first, last)
        try:
            _update_pinned(pages, last + 1 - first)
        except Errno:
            memory.unpin()
            raise
        pages.runs = [PinRun(first, last, SharedPin(memory), 0, 1)]
        pinned_registry().pages.add(pages)
        return memory, 0
    _cut(pages, first)
    _cut(pages, last + 1)
    runs, new = gather(pages, first, last)
    try:
        _update_pinned(pages, sum(run.last + 1 - run.first for run in new))
    except Errno:
        for run in new:
            run.memory.memory.unpin()
        raise
    for run in runs:
        run.users += 1
    if new:
        pages.runs = sorted([*pages.runs, *new], key=_run_first)
    return joined(runs, first)


def unpin(pages: IoptPages, first: int, last: int) -> None:
    """One user less."""
    if pages.dmabuf is not None:
        return
    runs = pages.runs
    if len(runs) != 1 or runs[0].first != first or runs[0].last != last:
        _cut(pages, first)
        _cut(pages, last + 1)
        low = bisect_right(pages.runs, first - 1, key=_run_first)
        runs = pages.runs[low : bisect_right(pages.runs, last, key=_run_first)]
        WARN_ON(sum(run.last + 1 - run.first for run in runs) != last + 1 - first, "what is unpinned is not pinned")
    gone = 0
    for run in runs:
        run.users -= 1
        if not run.users:
            gone += run.last + 1 - run.first
            run.memory.runs -= 1
            if not run.memory.runs:
                run.memory.memory.unpin()
    if gone:
        if gone > pages.npinned:
            WARN_ON(True, f"{gone} pages are unpinned, and {pages.npinned} are pinned")
        pages.runs = [run for run in pages.runs if run.users]
        if not pages.runs:
            pinned_registry().pages.discard(pages)
        _update_pinned(pages, -gone)


def _run_first(run: PinRun) -> int:
    return run.first


def _pin_source(pages: IoptPages, first: int, last: int) -> PinnedPages:
    """Have the pages pinned by whoever owns the memory. Errno EFAULT, or EINVAL of a file."""
    at, length = pages.uptr + first * PAGE_SIZE, (last + 1 - first) * PAGE_SIZE
    if pages.file is not None:
        memory: PinnedPages = pages.file.pin(at, length)
    else:
        memory = pages.mm.pin(at, length, pages.writable)
    return memory


def _cut(pages: IoptPages, at: int) -> None:
    """Have a run end before the page *at*, if one goes across."""
    index = bisect_right(pages.runs, at - 1, key=_run_first) - 1
    if index < 0 or pages.runs[index].last < at:
        return
    run = pages.runs[index]
    tail = PinRun(at, run.last, run.memory, run.offset + (at - run.first) * PAGE_SIZE, run.users)
    run.memory.runs += 1
    run.last = at - 1
    pages.runs.insert(index + 1, tail)


def gather(pages: IoptPages, first: int, last: int) -> tuple[list[PinRun], list[PinRun]]:
    """
    The runs that have the pages, ascending, and those among them that are new: pinned
    just now, without users and not in the list yet.
    """
    runs: list[PinRun] = []
    new: list[PinRun] = []
    index = max(bisect_right(pages.runs, first, key=_run_first) - 1, 0)
    at = first
    try:
        while at <= last:
            while index < len(pages.runs) and pages.runs[index].last < at:
                index += 1
            found = pages.runs[index] if index < len(pages.runs) else None
            if found is None or found.first > at:
                end = last if found is None else min(last, found.first - 1)
                found = PinRun(at, end, SharedPin(_pin_source(pages, at, end)), 0, 0)
                new.append(found)
            runs.append(found)
            at = found.last + 1
    except Errno:
        for run in new:
            run.memory.memory.unpin()
        raise
    return runs, new


def pinned_memory(pages: IoptPages, first: int, last: int) -> tuple[PinnedPages, int]:
    """The memory of pages that are pinned, and the byte in it where they begin."""
    if pages.dmabuf is not None:
        return pages.dmabuf.memory, 0
    return joined(gather(pages, first, last)[0], first)


def joined(runs: list[PinRun], first: int) -> tuple[PinnedPages, int]:
    """*runs* as one memory, and the byte in it where the page *first* begins."""
    skip = (first - runs[0].first) * PAGE_SIZE
    if len(runs) == 1:
        return runs[0].memory.memory, runs[0].offset + skip
    return PinnedRuns(runs), skip


# Accounting


def _update_pinned(pages: IoptPages, npages: int) -> None:
    """``iopt_pages_update_pinned()``: count *npages* more, or less. Errno ENOMEM above the limit."""
    if pages.account_mode != IOPT_PAGES_ACCOUNT_NONE:
        if not pages.npinned and pages.process.capable(CAP_IPC_LOCK):
            pages.account_mode = IOPT_PAGES_ACCOUNT_NONE
        else:
            _charge(pages.account_mode, pages.mm, npages)
    pages.npinned += npages
    pages.mm.pinned_vm += npages


def _charge(account_mode: int, mm: Any, npages: int) -> None:
    account = mm if account_mode == IOPT_PAGES_ACCOUNT_MM else user_struct()
    if npages > 0:
        limit = mm.memlock_limit()
        if limit is not None and account.locked_vm + npages > limit:
            raise Errno(ENOMEM, "RLIMIT_MEMLOCK")
    account.locked_vm += npages


def iopt_pages_charge_process(every: list[IoptPages], process: Any) -> None:
    """
    ``iommufd_ioas_change_process()``: all of *every*, which are files, count for
    *process* from now on. Errno ENOMEM above its limit: nothing has changed then.
    """
    mm = process.mm
    done: list[IoptPages] = []
    try:
        for pages in every:
            if pages.mm is not mm and pages.account_mode == IOPT_PAGES_ACCOUNT_MM:
                _charge(IOPT_PAGES_ACCOUNT_MM, mm, pages.npinned)
                done.append(pages)
    except Errno:
        for pages in done:
            mm.locked_vm -= pages.npinned
        raise
    for pages in done:
        pages.mm.locked_vm -= pages.npinned
    for pages in every:
        pages.mm.pinned_vm -= pages.npinned
        mm.pinned_vm += pages.npinned
        pages.mm, pages.process = mm, process
