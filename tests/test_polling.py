# SPDX-License-Identifier: GPL-2.0-only
"""Mapped registers that are polled: by themselves, and under real clients that must not notice."""

from __future__ import annotations

import ctypes
import mmap
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients_build import ROOT, VFIO_CLIENT, build, uvfio_run
from shared import need_program
from test_client_vs_linux import RECORDED, differences
from test_polled_drivers import NVME

from uvfio.devices.kit import PciBar, PciDevice, Register
from uvfio.live.filter import RET_ALLOW, RET_ERRNO, SockFprog
from uvfio.live.polledwindow import PolledWindow

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
PTRACE, EPERM = 101, 1


class Toy(PciDevice):
    """One register of each kind, and two doorbells."""

    BARS = {0: PciBar(8192)}
    doorbells = {0: range(0x1000, 0x1008)}

    START = Register(0x00)
    KEPT = Register(0x08, size=8)
    ERRORS = Register(0x10, "w1c", 0xF)
    ACK = Register(0x14, "wo")
    STATE = Register(0x18, "ro", 7, size=2)
    SMALL = Register(0x1B, size=1, mask=0x0F)

    @START.on_write
    def start(self, value: int) -> None:
        self.START = value + 1


class Shared:
    """The memory, as the client sees it."""

    def __init__(self) -> None:
        self.model = Toy()
        self.memory = mmap.mmap(-1, 8192)
        self.window = PolledWindow(self.model, 0, self.memory)
        self.window.fill()

    def read(self, offset: int, size: int = 4) -> int:
        return int.from_bytes(self.memory[offset : offset + size], "little")

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.memory[offset : offset + size] = value.to_bytes(size, "little")

    def look(self) -> list[tuple[int, int]]:
        """What the device hears of, in its order: offsets and values."""
        written = self.window.take()
        for word, value in written:
            self.model.bar_write(0, word.offset, word.size, value)
        self.window.show()
        return [(word.offset, value) for word, value in written]


@pytest.fixture
def shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.window.close()


def test_a_client_reads_what_the_registers_have(shared: Shared) -> None:
    assert not shared.window.changed()
    assert [shared.read(0x00), shared.read(0x08, 8), shared.read(0x10)] == [0, 0, 0xF]
    assert [shared.read(0x18, 2), shared.read(0x1B, 1)] == [7, 0]
    assert shared.read(0x14) == 0xFFFFFFFF  # cannot be read
    assert shared.read(0x20) == 0xFFFFFFFF  # nothing is there
    assert [shared.read(0x1000), shared.read(0x1004)] == [0, 0]
    shared.model.STATE = 0x1234
    shared.window.show()
    assert shared.read(0x18, 2) == 0x1234
    assert not shared.window.changed()


def test_writes_of_one_look_come_in_an_order_that_works(shared: Shared) -> None:
    for offset, value, size in ((0x1004, 3, 4), (0x00, 5, 4), (0x14, 1, 4), (0x08, 1 << 40, 8), (0x10, 1, 4)):
        shared.write(offset, value, size)
    assert shared.window.changed()
    assert shared.look() == [(0x08, 1 << 40), (0x10, 1), (0x14, 1), (0x00, 5), (0x1004, 3)]
    assert [shared.read(0x00), shared.read(0x08, 8), shared.read(0x10)] == [6, 1 << 40, 0xE]
    assert shared.look() == []


def test_the_same_value_again_is_seen_where_it_cannot_be_read(shared: Shared) -> None:
    for _ in range(2):
        shared.write(0x14, 1)
        assert shared.look() == [(0x14, 1)]
    for seen in ([(0x1000, 9)], []):  # a doorbell keeps its value, and the second time is not seen
        shared.write(0x1000, 9)
        assert shared.look() == seen


def test_what_the_client_has_just_written_is_not_lost(shared: Shared) -> None:
    shared.write(0x00, 5)
    ((word, value),) = shared.window.take()
    shared.model.bar_write(0, word.offset, word.size, value)
    shared.write(0x00, 8)
    shared.window.show()  # would put 6 there
    assert shared.look() == [(0x00, 8)]
    assert shared.read(0x00) == 9


def test_bits_that_cannot_be_written_come_back(shared: Shared) -> None:
    shared.write(0x1B, 0xFF, 1)
    shared.write(0x18, 0xFFFF, 2)
    assert shared.look() == [(0x18, 0xFFFF), (0x1B, 0xFF)]
    assert [shared.read(0x18, 2), shared.read(0x1B, 1)] == [7, 0x0F]


EDU = [
    "identification 0x10000ed",
    *(f"interrupt, cause 0x1\n{n}! = {factorial}" for n, factorial in ((5, 120), (6, 720), (7, 5040))),
    "interrupt, cause 0x100\ninterrupt, cause 0x100\n64 bytes out and back: equal",
    "read by a call: 0xedcba987, and mapped: 0xedcba987",
    "written by a call: 0xffffff00",
    "memory off: SIGBUS",
    "memory on: 0x10000ed",
    "kept: 0xffffff00",
]


@pytest.fixture(scope="module")
def nvme_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvme") / "nvme", ["nvme_client.c", "nvme_queue.c", "client_lib.c"])


@pytest.fixture(scope="module")
def edu_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("edu") / "edu", ["polled_edu.c", "nvme_queue.c", "client_lib.c"])


@pytest.mark.live
def test_nvme(nvme_client: Path) -> None:
    run = uvfio_run([nvme_client, "8"], devices=("nvme,size=8M,mmap=poll",))
    assert (run.stdout.splitlines(), run.stderr) == (NVME, "")


@pytest.mark.live
@pytest.mark.parametrize("how", ["trap", "poll"])
def test_edu(edu_client: Path, how: str) -> None:
    run = uvfio_run([edu_client], devices=(f"edu,mmap={how}",))
    assert (run.stdout, run.stderr) == ("\n".join(EDU) + "\n", "")


def polled_line(why: str) -> re.Pattern[str]:
    return re.compile(
        rf"uvfio: cannot trace process \d+ \({why}\): "
        r"its mapped registers of 0000:00:01\.0 are polled, see docs/polling\.md\n"
    )


@pytest.mark.live
def test_under_strace(nvme_client: Path, edu_client: Path, tmp_path: Path) -> None:
    strace = [need_program("strace", "strace"), "-f", "-o", tmp_path / "calls"]
    for command, device, expected in ([[nvme_client, "8"], "nvme,size=8M", NVME], [[edu_client], "edu", EDU]):
        run = uvfio_run([*strace, *command], devices=(device,))
        assert run.stdout == "\n".join(expected) + "\n"
        assert polled_line("strace traces it").fullmatch(run.stderr)
        assert "VFIO_GROUP_GET_DEVICE_FD" in (tmp_path / "calls").read_text()


@pytest.mark.live
def test_where_ptrace_is_refused(nvme_client: Path) -> None:
    command = [sys.executable, "-m", "uvfio", "run", "-d", "nvme,size=8M", "--", nvme_client, "8"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, preexec_fn=refuse_ptrace)
    assert run.stdout.splitlines() == NVME
    assert polled_line("Operation not permitted").fullmatch(run.stderr)


@pytest.mark.live
def test_a_model_that_cannot_be_polled_says_so(edu_client: Path) -> None:
    run = uvfio_run([edu_client], devices=("e1000e,mmap=poll",))
    assert run.stderr == "uvfio: mmap of e1000e must be trap, not 'poll'\n"
    run = uvfio_run([edu_client], devices=("edu,mmap=maybe",))
    assert run.stderr == "uvfio: mmap of edu must be trap or poll, not 'maybe'\n"


@pytest.mark.live
def test_1700_calls_answer_the_same(tmp_path: Path) -> None:
    """Those of test_client_vs_linux.py, but for two reads that follow a write at once."""
    client = build(tmp_path / "vfio_client", VFIO_CLIENT)
    run = uvfio_run([client], devices=("edu,mmap=poll", "pci-testdev", "e1000e"))
    at_once = re.compile(r"^(?:liveness ~0xcafe0001|factorial\(10\)) = .*\n", re.M)
    linux = RECORDED.read_text()
    assert len(at_once.findall(linux)) == 4
    assert differences(at_once.sub("", linux), at_once.sub("", run.stdout)) == ""


def refuse_ptrace() -> None:
    """In a child that is about to exec: ptrace(2) answers EPERM from now on, there and below."""
    load, jump_if, answer = 0x20, 0x15, 0x06
    filter_ = ((load, 0, 0, 0), (jump_if, 0, 1, PTRACE), (answer, 0, 0, RET_ERRNO | EPERM), (answer, 0, 0, RET_ALLOW))
    program = SockFprog(b"".join(ctypes.c_uint64(c | t << 16 | f << 24 | k << 32) for c, t, f, k in filter_))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "prctl")
