# SPDX-License-Identifier: GPL-2.0-only
"""
What the leader does when no task is runnable: wait for the host.

The listener is polled before everything else, and its calls are handled after
everything else. That order matters: a call that is there when poll looks at the
listener was made after every close that the same thread did before it, and inotify,
looked at later, knows of those. So a release is always done (or asleep) before the
next call of whoever closed.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable

from uvfio.live.notify import Call
from uvfio.runtime.live import LiveRuntime

Ready = Callable[[int], None]


class Loop:
    """Watches fds for a runtime. ``calls``, ``direct`` and ``inline`` run in the leader, ``watch`` in tasks."""

    def __init__(self, runtime: LiveRuntime) -> None:
        self.runtime = runtime
        self.baton = threading.Lock()  # who has it may run kernel code; see borrow.py
        self.baton.acquire()
        self._calls = -1
        self._only_calls: list[tuple[int, int]] = []
        self._receive: Callable[[], Call | None] = lambda: None
        self._handle: Callable[[Call], None] = lambda _call: None
        self._hung_up: Callable[[], None] = lambda: None
        self._received: deque[Call] = deque()
        self._inline = -1
        self._only_inline: list[tuple[int, int]] = []
        self._serve_inline: Callable[[], None] = lambda: None
        self._direct: dict[int, Ready] = {}
        self._watched: dict[int, tuple[int, Ready]] = {}
        # All but the listener, behind one fd: polling many for each call would be slow.
        self._others = select.epoll()
        self._poll = select.poll()
        self._poll.register(self._others, select.POLLIN)

    def close(self) -> None:
        self._others.close()

    def serve(
        self,
        listener: int,
        receive: Callable[[], Call | None],
        handle: Callable[[Call], None],
        hung_up: Callable[[], None],
    ) -> None:
        """Where the calls come from, until nobody is left to make any."""
        self._calls, self._receive, self._handle, self._hung_up = listener, receive, handle, hung_up
        self._only_calls = [(listener, select.POLLIN)]
        self._poll.unregister(self._others)
        self._poll.register(listener, select.POLLIN)
        self._poll.register(self._others, select.POLLIN)

    def inline(self, fd: int, ready: Callable[[], None]) -> None:
        """Call *ready()*, which may sleep, when *fd* is readable. There is one such fd, polled by itself for speed."""
        self._inline, self._serve_inline = fd, ready
        self._only_inline = [(fd, select.POLLIN)]
        self._poll.register(fd, select.POLLIN)

    def stop_inline(self) -> None:
        self._poll.unregister(self._inline)
        self._inline, self._only_inline = -1, []

    def direct(self, fd: int, ready: Ready, events: int = select.EPOLLIN) -> None:
        """Call *ready(revents)*, which must not sleep, when *fd* is readable, or broken (*events* 0)."""
        self._direct[fd] = ready
        self._others.register(fd, events)

    def stop_direct(self, fd: int) -> None:
        del self._direct[fd]
        self._others.unregister(fd)

    def watch(self, fd: int, events: int, ready: Ready) -> None:
        """Run *ready(revents)* as a task when *fd* is ready; not again before it is through."""
        self._watched[fd] = (events, ready)
        self._others.register(fd, events)

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            try:
                self._others.unregister(fd)
            except FileNotFoundError:
                pass  # its task is under way

    def idle(self, timeout: float | None) -> bool:
        """For ``LiveRuntime.idle``: one round, or many if nothing but calls come in."""
        if self._received:
            self._handle(self._received.popleft())
            return True
        self.baton.release()
        try:
            ready = self._poll.poll(None if timeout is None else max(0.0, timeout) * 1000)
        finally:
            self.baton.acquire()
        if ready == self._only_calls:
            self._serve_calls()
            return True
        if ready == self._only_inline:
            self._serve_inline()
            return True
        inline = False
        for fd, events in ready:
            if fd == self._calls and not events & select.POLLIN:
                self._poll.unregister(fd)
                self._hung_up()
            elif fd == self._inline:
                inline = True
            elif fd == self._calls:
                # Received now, for until then any signal interrupts it; handled when
                # what happened before it is done.
                call = self._receive()
                if call is not None:
                    self._received.append(call)
        for fd, events in self._others.poll(0):
            if fd in self._direct:
                self._direct[fd](events)
            elif fd in self._watched:
                self._start(fd, events)
        if inline:
            # Last: when it sleeps, another leader sees to what is ready, and what we know of that is old.
            self._serve_inline()
        return True

    def _serve_calls(self) -> None:
        """The hot path: as long as there is nothing else to do."""
        runtime, poll, receive, handle = self.runtime, self._poll.poll, self._receive, self._handle
        only_calls = self._only_calls
        while True:
            call = receive()
            if call is not None:
                handle(call)
            if runtime.runq or runtime.waiters or poll(0) != only_calls:
                return

    def _start(self, fd: int, events: int) -> None:
        # Not polled meanwhile: it may sleep with *fd* still ready.
        self._others.unregister(fd)
        mine = self._watched[fd]

        def task() -> None:
            try:
                mine[1](events)
            finally:
                if self._watched.get(fd) is mine:
                    self._others.register(fd, mine[0])

        self.runtime.spawn(task, f"event/{fd}")
