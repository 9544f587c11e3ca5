# SPDX-License-Identifier: GPL-2.0-only
"""
Signals sent to uvfio are meant for the program that it runs.

What the terminal sends (Ctrl-C) reaches the program by itself, for it is in our
process group; then it is only ignored here.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def forwarded(pid: int) -> Iterator[None]:
    """While this lasts, signals go on to *pid*."""

    def forward(number: int, _frame: FrameType | None) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    before = {}
    for number in (*FORWARDED, *FROM_TERMINAL):
        ignored = number in FROM_TERMINAL and _in_foreground()
        before[number] = signal.signal(number, signal.SIG_IGN if ignored else forward)
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
