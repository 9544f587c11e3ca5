# SPDX-License-Identifier: GPL-2.0-only
"""Devices over vfio-user: a client of the protocol drives edu as VFIO's own clients do."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vfio_user_wire import HEADER, NO_REPLY, Refused, Wire

pytestmark = pytest.mark.live

BAR0, CONFIG = 0, 7
MSI, ERR = 1, 3
DATA_NONE, DATA_EVENTFD, ACTION_TRIGGER = 1, 4, 32
IOVA = 0x100000
BUFFER = 0x40000  # edu's, as its DMA engine addresses it


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """Where an edu is served."""
    at = str(tmp_path / "edu.sock")
    command = [sys.executable, "-m", "uvfio", "serve", "--json", "--socket", at, "-d", "edu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert json.loads(server.stdout.readline()) == {"model": "edu", "socket": at, "bdf": "0000:00:01.0"}
    yield at
    server.send_signal(signal.SIGTERM)
    _out, err = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "Traceback" not in err
    assert not os.path.exists(at), "the socket goes with the server"


def start(wire: Wire) -> None:
    wire.version()
    command = struct.unpack("<H", wire.read(CONFIG, 4, 2))[0]
    wire.write(CONFIG, 4, struct.pack("<H", command | 6))  # memory, bus master


def register(wire: Wire, offset: int) -> int:
    return int(struct.unpack("<I", wire.read(BAR0, offset, 4))[0])


def copy(wire: Wire, source: int, destination: int, count: int, interrupt: bool = False) -> None:
    """Edu's DMA engine: from memory to its buffer, or back."""
    for offset, value in ((0x80, source), (0x88, destination), (0x90, count)):
        wire.write(BAR0, offset, struct.pack("<Q", value))
    wire.write(BAR0, 0x98, struct.pack("<Q", 1 | 2 * (source >= BUFFER and source < BUFFER + 4096) | 4 * interrupt))


def test_version_and_infos(path: str) -> None:
    with Wire(path) as wire:
        major, minor, said = wire.version()
        assert (major, minor) == (0, 1)
        assert said["capabilities"]["max_data_xfer_size"] == 1 << 20
        assert wire.info() == (16, 2, 9, 5)
        assert wire.region_info(BAR0)[1:5] == (3, 0, 0, 1 << 20)  # read and write, nothing to map
        assert wire.region_info(CONFIG)[4] == 256
        assert wire.irq_info(MSI) == (16, 9, 1, 1)
        with pytest.raises(Refused, match=r"^EINVAL$"):
            wire.region_info(9)


def test_configuration_space_and_registers(path: str) -> None:
    with Wire(path) as wire:
        start(wire)
        assert wire.read(CONFIG, 0, 4) == struct.pack("<HH", 0x1234, 0x11E8)
        assert register(wire, 0) == 0x010000ED
        wire.write(BAR0, 4, struct.pack("<I", 0x12345678))
        assert register(wire, 4) == 0xEDCBA987
        wire.write(BAR0, 8, struct.pack("<I", 10), flags=NO_REPLY)
        assert register(wire, 8) == 3628800


def test_dma_to_a_file_and_an_interrupt(path: str) -> None:
    memfd = os.memfd_create("guest")
    os.truncate(memfd, 2 << 20)
    os.pwrite(memfd, b"vfio-user" * 100, 0x1000)
    interrupt = os.eventfd(0)
    with Wire(path) as wire:
        start(wire)
        wire.dma_map(IOVA, 1 << 20, memfd, offset=0x1000)
        wire.set_irqs(MSI, DATA_EVENTFD | ACTION_TRIGGER, [interrupt])
        copy(wire, IOVA, BUFFER, 900)
        copy(wire, BUFFER, IOVA + 0x2000, 900, interrupt=True)
        assert os.eventfd_read(interrupt) == 1
        assert os.pread(memfd, 900, 0x3000) == b"vfio-user" * 100
        wire.dma_unmap(IOVA, 1 << 20)
        with pytest.raises(Refused, match=r"^EINVAL$"):
            wire.dma_unmap(IOVA, 1 << 20)
        os.pwrite(memfd, bytes(900), 0x3000)
        copy(wire, BUFFER, IOVA + 0x2000, 900)  # blocked: nothing is mapped there any more
        assert not any(os.pread(memfd, 900, 0x3000))
    os.close(interrupt)
    os.close(memfd)


def test_dma_to_memory_that_only_the_client_can_reach(path: str) -> None:
    with Wire(path) as wire:
        start(wire)
        wire.dma_map(IOVA, 1 << 16)
        wire.memory[IOVA][:5] = b"hello"
        copy(wire, IOVA, BUFFER, 5)
        copy(wire, BUFFER, IOVA + 0x100, 5)
        assert wire.memory[IOVA][0x100:0x105] == b"hello"
        assert wire.reached == 10
        wire.dma_unmap(0, 0, flags=2)


def test_what_cannot_be_is_answered_and_the_connection_goes_on(path: str) -> None:
    not_an_eventfd = os.memfd_create("x")
    with Wire(path) as wire:
        start(wire)
        for wrong in (
            lambda: wire.call(99),
            lambda: wire.call(4, b"short"),
            lambda: wire.dma_map(IOVA, 100),
            lambda: wire.dma_map(IOVA, 4096, flags=7),
            lambda: wire.dma_map(IOVA, 1 << 40, not_an_eventfd),
            lambda: wire.set_irqs(MSI, DATA_EVENTFD | ACTION_TRIGGER, [not_an_eventfd]),
            lambda: wire.set_irqs(MSI, DATA_EVENTFD | ACTION_TRIGGER, [not_an_eventfd], count=2),
            lambda: wire.read(BAR0, 1 << 20, 4),
            lambda: wire.read(BAR0, 0, 2 << 20),
            lambda: wire.call(13),  # edu cannot be reset
        ):
            with pytest.raises(Refused):
                wrong()
        assert register(wire, 0) == 0x010000ED
        assert not wire.memory
    os.close(not_an_eventfd)


def test_the_next_client_finds_the_device_as_new(path: str) -> None:
    with Wire(path) as wire:
        start(wire)
        wire.dma_map(IOVA, 4096)
    with Wire(path) as wire:
        start(wire)
        wire.dma_map(IOVA, 4096)
        copy(wire, IOVA, BUFFER, 4)
        assert wire.reached == 4


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff" * 64,
        HEADER.pack(1, 1, 5, 0, 0),
        HEADER.pack(1, 4, HEADER.size, 0, 0),  # before VERSION
        HEADER.pack(1, 1, 1 << 31, 0, 0),
    ],
)
def test_nonsense_ends_the_connection_and_not_the_server(path: str, nonsense: bytes) -> None:
    with Wire(path) as wire:
        wire.socket.sendall(nonsense)
        assert wire.socket.recv(64) == b""
    with Wire(path) as wire:
        assert wire.version()[0] == 0


def test_a_client_that_goes_while_its_memory_is_awaited(path: str) -> None:
    with Wire(path) as wire:
        start(wire)
        wire.dma_map(IOVA, 4096)
        for offset, value in ((0x80, IOVA), (0x88, BUFFER), (0x90, 4), (0x98, 1)):
            data = struct.pack("<QIIQ", offset, BAR0, 8, value)
            wire.socket.sendall(HEADER.pack(9, 10, HEADER.size + len(data), NO_REPLY, 0) + data)
        assert wire.socket.recv(HEADER.size)[2:4] == struct.pack("<H", 11)  # it asks for our memory
    with Wire(path) as wire:
        start(wire)
        assert register(wire, 0) == 0x010000ED


def test_another_version_is_refused(path: str) -> None:
    with Wire(path) as wire:
        with pytest.raises(Refused, match=r"^EINVAL$"):
            wire.version(major=1)
        assert wire.version(minor=7)[:2] == (0, 1)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-d", "edu"], "there must be a --socket for each -d, and at least one, not 0 and 1"),
        (["--socket", "/nowhere/x", "-d", "edu"], "the socket /nowhere/x must be new: No such file or directory"),
        (
            ["--socket", "x", "-d", "edu,driver=none"],
            "the device at 0000:00:01.0 must be bound to vfio-pci to be served",
        ),
        (["--socket", "x", "-d", "nope"], None),
    ],
)
def test_bad_input_is_one_line(words: list[str], line: str | None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvfio", "serve", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=_here())
    assert done.returncode == 2
    assert done.stderr.startswith("uvfio: ")
    assert len(done.stderr.splitlines()) == 1
    assert line is None or done.stderr == f"uvfio: {line}\n"
    assert not (tmp_path / "x").exists()


def _here() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
