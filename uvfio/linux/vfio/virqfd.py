# SPDX-License-Identifier: GPL-2.0-only
"""
Eventfds that the user signals to make the kernel do something. Mirrors ``drivers/vfio/virqfd.c``.

Difference from Linux: the handler runs in the task that brings the signal, not in a
work item, so disabling one has nothing to flush.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY

from uvfio.linux.kernel.process import EventfdCtx, eventfd_ctx_fdget
from uvfio.runtime.errors import Errno


class Virqfd:
    """``struct virqfd``: calls *handler* whenever the user signals the eventfd."""

    def __init__(self, ctx: EventfdCtx, handler: Callable[[], None]) -> None:
        self.ctx = ctx
        self.stop = ctx.watch(handler)

    def disable(self) -> None:
        self.stop()
        self.ctx.put()


def vfio_virqfd_enable(was: Virqfd | None, handler: Callable[[], None], fd: int) -> Virqfd:
    """Errno EBADF or EINVAL for an *fd* that is no eventfd, EBUSY when there is one already."""
    ctx = eventfd_ctx_fdget(fd)
    if was is not None:
        ctx.put()
        raise Errno(EBUSY)
    return Virqfd(ctx, handler)
