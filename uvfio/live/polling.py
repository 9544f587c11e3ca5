# SPDX-License-Identifier: GPL-2.0-only
"""
Mapped registers where no instruction can be trapped: another tracer is at work, or ptrace
is not allowed. The client maps plain memory (``polledwindow.py``), which a thread looks at.

All differences from registers that are trapped (``mmio.py``), for users in docs/polling.md:

* what a write does is there one look later: a driver that reads right after it finds the
  value that it has written, or the state before;
* of two writes to one register between two looks the first is lost, and so is a write of
  the value that is there;
* writes found in one look act in the order of ``PolledWindow.take``, not the program's;
* a read has no side effect, and what no register has keeps what is written there.

Before and after each call on the device's file its registers are looked at, too, so calls
and writes of one thread stay in order. From one look to the next it is BUSY seconds, and up to
REST the longer nothing has been written. What others do to the device (``uvfio ctl``,
sysfs) shows after SHOWN at most. While the device does not decode memory the file is cut
off before the registers, and an access is a SIGBUS, as it is in Linux.
"""

from __future__ import annotations

import mmap
import os
import select
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from uvfio.devices.kit import PciDevice
from uvfio.linux.kernel.fs import run_task_works
from uvfio.linux.vfio.pci.config import vfio_pci_memory_enabled
from uvfio.linux.vfio.pci.private import VfioPciCoreDevice
from uvfio.linux.vfio.pci.rdwr import vfio_pci_mmap_access
from uvfio.live import host
from uvfio.live.borrow import Borrower
from uvfio.live.filter import REGION_TAG
from uvfio.live.loop import Loop
from uvfio.live.polledwindow import PolledWindow, words
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current

PAGE_SIZE = 4096
BUSY = 20e-6
REST = 10e-3
SHOWN = 100e-3
PATIENCE = 8  # the time to the next look is this part of the time since the last write

T = TypeVar("T")


class PolledRegisters:
    """Those of *model*, of an open file of its device *core*, for which *memfd* stands. Takes over *memfd*."""

    def __init__(self, core: VfioPciCoreDevice, model: PciDevice, memfd: int) -> None:
        self.core = core
        self.model = model
        self.memfd = memfd
        self._bars = {bar: end for bar in range(len(model.bars)) if (end := _end(model, bar))}
        self._windows: list[PolledWindow] = []
        self._there = False  # the file reaches as far as the registers
        self._busy = False
        self._lock = threading.Lock()  # to touch a window that has been cut off would be our own SIGBUS
        self._cut_off(False)
        for bar, end in self._bars.items():
            at = (REGION_TAG << 48) + self.core.region_offsets[bar]
            self._windows.append(PolledWindow(self.model, bar, mmap.mmap(self.memfd, end, offset=at)))
        for window in self._windows:
            window.fill()
        self._there = True  # ... until catch_up finds that it must not
        self.model.before_interrupt.append(self._show)
        self.catch_up()

    def changed(self) -> bool:
        """Has a client written something? From any thread."""
        with self._lock:
            return self._there and any(window.changed() for window in self._windows)

    def catch_up(self) -> None:
        """Do what clients have written, and show what came of it. It may sleep."""
        if self._busy:
            return  # a call on the file, while one of those writes sleeps
        self._busy = True
        try:
            with self._lock:
                self._follow_decoding()
                written = [(w, *each) for w in self._windows for each in w.take()] if self._there else []
            for window, word, value in written:
                try:
                    at = self.core.region_offsets[window.bar] + word.offset
                    vfio_pci_mmap_access(self.core, at, word.size, value)
                except Errno:
                    pass  # an earlier one of them has turned memory off
            self._show()
        finally:
            self._busy = False

    def _show(self) -> None:
        with self._lock:
            for window in self._windows if self._there else ():
                window.show()

    def around(self, call: Callable[[], T]) -> T:
        """*call*, a system call on the file, after the writes that came before it."""
        self.catch_up()
        try:
            return call()
        finally:
            self.catch_up()

    def close(self) -> None:
        self.model.before_interrupt.remove(self._show)
        with self._lock:
            self._there = False
            for window in self._windows:
                window.close()
        os.close(self.memfd)

    def _follow_decoding(self) -> None:
        on = not self.core.pm_runtime_engaged and vfio_pci_memory_enabled(self.core)
        if on != self._there:
            self._cut_off(not on)
            for window in self._windows if on else ():
                window.fill()
            self._there = on

    def _cut_off(self, off: bool) -> None:
        end = max(self.core.region_offsets[bar] + self.model.bars[bar].size for bar in self._bars)
        os.ftruncate(self.memfd, 0 if off else (REGION_TAG << 48) + end)


class PollingThread(threading.Thread):
    """Looks at all of them; *guarded* as for Regions."""

    def __init__(self, loop: Loop, guarded: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__(name="polling", daemon=True)
        self._loop = loop
        self._guarded = guarded
        self._polled: tuple[PolledRegisters, ...] = ()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wanted = threading.Event()
        self._served = threading.Event()
        self._closed = False
        loop.watch(self._wake, select.EPOLLIN, lambda _events: self._serve())

    def add(self, polled: PolledRegisters) -> None:
        self._polled += (polled,)
        if not self.is_alive():
            self.start()
        self._wanted.set()

    def remove(self, polled: PolledRegisters) -> None:
        self._polled = tuple(each for each in self._polled if each is not polled)
        if not self._polled:
            self._wanted.clear()

    def close(self) -> None:
        self._closed = True
        self._wanted.set()
        self._served.set()
        if self.is_alive():
            self.join()
        self._loop.unwatch(self._wake)
        os.close(self._wake)

    def run(self) -> None:
        host.set_timer_slack(1)
        borrower = Borrower(self._loop, self._knock)
        borrower.inhabit(partial(self._look_on, borrower))

    def _look_on(self, borrower: Borrower) -> None:
        written = shown = time.monotonic()
        while not self._closed:
            self._wanted.wait()
            now = time.monotonic()
            changed = any(each.changed() for each in self._polled)
            if changed:
                written = now
            if changed or now - shown >= SHOWN:
                self._have_caught_up(borrower)
                shown = now
            time.sleep(min(REST, max(BUSY, (now - written) / PATIENCE)))

    def _have_caught_up(self, borrower: Borrower) -> None:
        if not borrower.borrow():
            self._hand_over()
            return
        try:
            self._catch_up()
        finally:
            borrower.give_back()

    def _catch_up(self) -> None:
        for polled in self._polled:
            self._guarded(polled.catch_up)
        if current().task_works:
            self._guarded(run_task_works)

    def _hand_over(self) -> None:
        """The main thread is at work: it shall do it when it is through."""
        self._served.clear()
        self._knock()
        if not self._closed:
            self._served.wait()

    def _knock(self) -> None:
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def _serve(self) -> None:
        try:
            os.eventfd_read(self._wake)
            self._catch_up()
        finally:
            self._served.set()


def _end(model: PciDevice, bar: int) -> int:
    """How much of BAR *bar* is polled, in whole pages; 0: nothing."""
    last = max((word.offset + word.size for word in words(model, bar)), default=0)
    return -(-last // PAGE_SIZE) * PAGE_SIZE if model.bars[bar].kind != "io" else 0
