# SPDX-License-Identifier: GPL-2.0-only
"""
The server: a socket for each device, and a client at a time on each.

A client's commands are done one after the other in a task, which may sleep or wait for
the client itself (memory that only it can reach); the others are served meanwhile.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from uvfio.live.loop import Loop
from uvfio.live.status import devices
from uvfio.machine import Machine
from uvfio.runtime.collector import seldom_collecting
from uvfio.runtime.errors import Errno
from uvfio.runtime.live import LiveRuntime
from uvfio.runtime.task import current
from uvfio.serve.channel import Channel, ProtocolError
from uvfio.serve.client import ClientProcess
from uvfio.serve.session import Session


class CannotServe(Exception):
    """A socket or a device cannot be offered; the message says what must be."""


class Service:
    """One device at one socket."""

    def __init__(self, loop: Loop, bdf: str, node: str, path: str) -> None:
        self.loop = loop
        self.bdf = bdf
        self.node = node
        self.path = path
        self.channel: Channel | None = None
        self.session: Session | None = None
        self._busy = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(path)
        except OSError as e:
            self._socket.close()
            raise CannotServe(f"the socket {path} must be new: {e.strerror}") from None
        self._socket.listen(1)

    def start(self) -> None:
        """Wait for a client."""
        self.loop.direct(self._socket.fileno(), lambda _events: self._accept())

    def close(self) -> None:
        """In a task: let the client go, and take the socket away."""
        if self.channel is None:
            self.loop.stop_direct(self._socket.fileno())
        else:
            self._end()
        self._socket.close()
        os.unlink(self.path)

    def _accept(self) -> None:
        connection, _address = self._socket.accept()
        self.loop.stop_direct(self._socket.fileno())  # one at a time: the next waits
        self.channel = channel = Channel(connection, self._arrived)
        self.loop.direct(connection.fileno(), lambda _events: self._readable(channel))

    def _readable(self, channel: Channel) -> None:
        try:
            channel.readable()
        except ProtocolError as e:
            self._complain(e)
            channel.closed = True
        if channel.closed:
            self.loop.stop_direct(channel.socket.fileno())
            self._spawn(self._ended)

    def _arrived(self) -> None:
        if not self._busy:
            self._busy = True
            self._spawn(self._work)

    def _work(self) -> None:
        channel = self.channel
        assert channel is not None
        try:
            while channel.commands and not channel.closed:
                if self.session is None:
                    self.session = Session(channel, ClientProcess(self.loop), self.node)
                self.session.do(channel.commands.popleft())
        except (ProtocolError, Errno) as e:
            self._complain(e)
            # The client learns by the end of the connection, as does our reader.
            channel.socket.shutdown(socket.SHUT_RDWR)
        finally:
            self._busy = False

    def _ended(self) -> None:
        current().runtime.point("vfio-user", self, ready=lambda: not self._busy)
        self._end()
        self.start()

    def _end(self) -> None:
        channel, self.channel = self.channel, None
        session, self.session = self.session, None
        assert channel is not None
        channel.close()
        if session is not None:
            session.close()

    def _spawn(self, body: Callable[[], None]) -> None:
        self.loop.runtime.spawn(body, f"vfio-user {self.bdf}")

    def _complain(self, e: Exception) -> None:
        sys.stderr.write(f"uvfio: {self.path}: {e}\n")


def serve(machine: Machine, sockets: Mapping[str, str], ready: Callable[[Service], None]) -> None:
    """
    Offer devices of *machine*, which is booted, until SIGINT or SIGTERM: *sockets* are
    paths by the address of the device. *ready* hears of each that is there. CannotServe.
    """
    assert isinstance(machine.runtime, LiveRuntime)
    loop = Loop(machine.runtime)
    services: list[Service] = []
    found = {device["bdf"]: device["vfio"] for device in machine.run(devices)}
    try:
        for bdf, path in sockets.items():
            if found[bdf] is None:
                raise CannotServe(f"the device at {bdf} must be bound to vfio-pci to be served")
            services.append(Service(loop, bdf, f"/dev/vfio/devices/{found[bdf]}", path))
        for service in services:
            service.start()
            ready(service)
        with _told_to_stop(loop) as stopped, seldom_collecting():
            machine.runtime.idle = loop.idle
            machine.runtime.run_until(stopped)
    finally:
        machine.runtime.idle = None
        for service in services:
            machine.run(service.close)
        loop.close()


def _drain(reader: socket.socket) -> None:
    reader.recv(64)


@contextmanager
def _told_to_stop(loop: Loop) -> Iterator[Callable[[], bool]]:
    """Answers whether a signal has asked us to end."""
    received: list[int] = []
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    was = {number: signal.signal(number, lambda n, _frame: received.append(n)) for number in (2, 15)}
    wakeup = signal.set_wakeup_fd(writer.fileno())
    loop.direct(reader.fileno(), lambda _events: _drain(reader))
    try:
        yield lambda: bool(received)
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in was.items():
            signal.signal(number, handler)
        loop.stop_direct(reader.fileno())
        reader.close()
        writer.close()
