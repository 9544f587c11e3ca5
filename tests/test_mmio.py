# SPDX-License-Identifier: GPL-2.0-only
"""Registers in mapped memory, without a supervisor: a memfd of size 0 and a toy device."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from clients_build import build

from uvfio.live.mmio import Access, MmioTrapper

SIZE = 4096
pytestmark = pytest.mark.live


class Toy:
    """Runs a client whose device memory is a bytearray; the last word of it refuses everything."""

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self.accesses: list[Access] = []
        self.complaints: list[str] = []
        self.statuses: dict[int, int] = {}
        self._poll = select.poll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self.memfd = os.memfd_create("toy", 0)
        self.inode = os.fstat(self.memfd).st_ino
        self.trapper = MmioTrapper(
            self.dispatch,
            self.complaints.append,
            self.statuses.__setitem__,
            lambda _device, inode: inode == self.inode,
            backing=lambda _inode: os.dup(self.memfd),
        )
        self.trapper.start(self)

    def inline(self, fd: int, ready: Callable[[], None]) -> None:
        self.wake = fd
        self.direct(fd, lambda _events: ready())

    def stop_inline(self) -> None:
        self.stop_direct(self.wake)

    def direct(self, fd: int, ready: Callable[[int], None]) -> None:
        self._ready[fd] = ready
        self._poll.register(fd, select.POLLIN)

    def stop_direct(self, fd: int) -> None:
        del self._ready[fd]
        self._poll.unregister(fd)

    def dispatch(self, access: Access) -> None:
        self.accesses.append(access)
        end = access.offset + access.size
        if end > SIZE - 4:
            access.answer(None)
        elif access.value is None:
            access.answer(int.from_bytes(self.memory[access.offset : end], "little"))
        else:
            self.memory[access.offset : end] = access.value.to_bytes(access.size, "little")
            access.answer(0)

    def run(self, program: Path) -> tuple[int, str]:
        """The client's wait status and what it printed."""
        client = subprocess.Popen(
            [program, str(self.memfd)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[self.memfd], text=True
        )
        assert client.stdin is not None
        assert client.stdout is not None
        assert self.trapper.attach(client.pid)
        assert self.trapper.attach(client.pid)  # the second mapping of the same process
        client.stdin.close()
        over: list[int] = []
        pidfd = os.pidfd_open(client.pid)
        self.direct(pidfd, lambda events: (over.append(events), self.stop_direct(pidfd))[1])
        while not over:
            for fd, events in self._poll.poll(20000) or pytest.fail("the client hangs"):
                self._ready[fd](events)
        os.close(pidfd)
        text = client.stdout.read()
        client.stdout.close()
        try:
            status = os.waitpid(client.pid, 0)[1]
        except ChildProcessError:
            status = self.statuses[client.pid]
        client.returncode = 0  # waited for here
        self.trapper.close()
        os.close(self.memfd)
        return status, text


def test_every_form_does_what_the_processor_does(tmp_path: Path) -> None:
    toy = Toy()
    status, text = toy.run(build(tmp_path / "forms", ["mmio_forms.c"], "-mno-red-zone"))
    assert text == "all the same\n"
    assert status == 0
    assert toy.complaints == []
    assert {access.size for access in toy.accesses} == {1, 2, 4, 8}


def test_tracing_is_not_noticed(tmp_path: Path) -> None:
    toy = Toy()
    status, text = toy.run(build(tmp_path / "life", ["mmio_life.c"]))
    assert text.splitlines() == [
        "threads: right, counter 800",
        "signals: right, some came: 1",
        f"refused: signal {signal.SIGBUS:d}",
        "fork: exit 5, the parent sees 77",
        "exec: exit 4",
        "stop: stopped 1 still 1 continued 1 goes on 1 killed by 9",
    ]
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGBUS
    assert toy.complaints == []


def test_nobody_else_sees_a_step(tmp_path: Path) -> None:
    toy = Toy()
    status, text = toy.run(build(tmp_path / "step", ["mmio_step.c"], "-mcx16", "-lpthread"))
    assert text.splitlines() == [
        "stepped 60, in the register 60",
        *[f"thread {i} lost 0" for i in range(3)],
        "signals came: 1",
    ]
    assert status == 0
    assert toy.complaints == []


@pytest.mark.skipif("avx2" not in Path("/proc/cpuinfo").read_text(), reason="NO AVX2: gathers were not tried")
def test_what_can_not_be_stepped_is_one_line(tmp_path: Path) -> None:
    """A gather touches as many places as it has elements."""
    toy = Toy()
    status, text = toy.run(build(tmp_path / "gather", ["mmio_gather.c"]))
    assert (os.WTERMSIG(status), text) == (signal.SIGBUS, "")
    (complaint,) = toy.complaints
    assert re.fullmatch(
        r"process \d+ touched device memory at 0x[0-9a-f]+ with vpgatherdd .*, "
        "which uvfio can neither emulate nor single-step: SIGBUS",
        complaint,
    )


def test_another_tracer_is_one_line() -> None:
    first, second = Toy(), Toy()
    client = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert client.stdin is not None
    assert first.trapper.attach(client.pid)
    assert not second.trapper.attach(client.pid)
    assert len(second.complaints) == 1
    assert second.complaints[0].startswith(f"cannot trace process {client.pid} (")
    client.stdin.close()
    client.wait()
    assert not first.trapper.attach(client.pid)  # gone: no news
    assert first.complaints == []
    for toy in (first, second):
        toy.trapper.close()
        os.close(toy.memfd)
