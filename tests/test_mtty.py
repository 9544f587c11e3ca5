# SPDX-License-Identifier: GPL-2.0-only
"""The UART of mtty, and its migration from one device to another."""

from __future__ import annotations

import struct
from errno import EFAULT, EINVAL, ENODEV, ENOMEM
from typing import Any

import pytest
from vfio_user import VfioUser, booted, refusal

from uvfio.devices import mtty_uart as uart
from uvfio.devices.mtty_uart import SerialPort
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_write
from uvfio.linux.vfio.migration import PRE_COPY, RESUMING, RUNNING, STOP, STOP_COPY, VFIO_FROM_FSM_TABLE
from uvfio.uapi import vfio as uapi

U = "83b8f4f2-509f-382f-3c1e-e6bfe0fa{:04}"
CONFIG = 7 << 40


class Counted(SerialPort):
    def __init__(self) -> None:
        self.interrupts = 0
        super().__init__(self.interrupted)

    def interrupted(self) -> None:
        self.interrupts += 1

    def since(self) -> int:
        count, self.interrupts = self.interrupts, 0
        return count


@pytest.fixture
def port() -> Counted:
    port = Counted()
    port.write(uart.FCR, 7)
    return port


def test_what_is_sent_comes_back(port):
    for byte in b"abc":
        port.write(uart.THR, byte)
    assert port.read(uart.LSR) == 0x01
    assert bytes(port.read(uart.RBR) for _ in range(3)) == b"abc"
    assert (port.read(uart.LSR), port.read(uart.RBR)) == (0x60, 0)
    assert port.since() == 0


def test_the_first_byte_and_an_overrun_interrupt(port):
    port.write(uart.IER, uart.IER_RDI | uart.IER_RLSI)
    counts = []
    for byte in range(18):
        port.write(uart.THR, byte)
        counts.append(port.since())
    assert counts == [1] + [0] * 15 + [1, 1]
    assert port.read(uart.IIR) == 0xC6
    assert port.read(uart.LSR) == 0x62  # full looks empty, as in Linux


def test_an_empty_transmitter_interrupts(port):
    port.write(uart.IER, uart.IER_THRI)
    assert (port.since(), port.read(uart.IIR)) == (1, 0xC2)
    port.write(uart.THR, 1)
    assert (port.since(), port.read(uart.IIR)) == (0, 0xC1)
    port.read(uart.RBR)
    assert port.since() == 1


def test_modem_control_interrupts_for_each_reason(port):
    port.write(uart.IER, uart.IER_MSI)
    counts = []
    for value in (uart.MCR_OUT2, uart.MCR_DTR, uart.MCR_RTS, 0x0B, uart.MCR_AFE, 0):
        port.write(uart.MCR, value)
        counts.append(port.since())
    assert counts == [1, 1, 1, 2, 0, 0]


def test_the_divisor_only_gains_bits(port):
    port.write(uart.LCR, uart.LCR_DLAB)
    for register, value in ((0, 12), (0, 3), (1, 1), (1, 2)):
        port.write(register, value)
    assert (port.read(0), port.read(1)) == (0x0F, 0x03)
    port.write(uart.LCR, 3)
    assert (port.read(0), port.read(uart.LCR)) == (0, 3)


def test_without_fifo_there_is_room_for_one(port):
    port.write(uart.FCR, 0)
    port.write(uart.THR, 1)
    port.write(uart.THR, 2)
    assert (port.read(uart.LSR), port.read(uart.RBR)) == (0x03, 1)


def test_state_survives_a_move(port):
    for byte in b"moved":
        port.write(uart.THR, byte)
    port.write(uart.SCR, 0x5A)
    other = Counted()
    other.load(port.save())
    assert bytes(other.read(uart.RBR) for _ in range(5)) == b"moved"
    assert other.read(uart.SCR) == 0x5A


class MttyUser(VfioUser):
    """With two cards of two ports each, bound through their cdevs."""

    def __init__(self) -> None:
        super().__init__()
        self.iommufd = self.open("/dev/iommu")
        self.devices = [self.made(n) for n in range(2)]

    def made(self, n: int) -> int:
        create = kernfs_find("/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-2/create")
        assert create is not None
        kernfs_write(create, U.format(n).encode())
        device = self.open(f"/dev/vfio/devices/vfio{n}")
        self.bind(device, self.iommufd)
        return device

    def feature(self, device: int, flags: int, data: bytes = b"") -> bytes:
        return self.call(device, uapi.VFIO_DEVICE_FEATURE, struct.pack("<II", 8 + len(data), flags) + data)[8:]

    def set_state(self, device: int, state: int) -> int:
        """The data fd, -1 for none."""
        data = struct.pack("<Ii", state, 0)
        return struct.unpack("<Ii", self.feature(device, uapi.VFIO_DEVICE_FEATURE_SET | 2, data))[1]

    def state(self, device: int) -> int:
        return struct.unpack("<Ii", self.feature(device, uapi.VFIO_DEVICE_FEATURE_GET | 2, bytes(8)))[0]


@pytest.fixture
def run() -> Any:
    machine = booted("mtty")
    return lambda body: machine.run(lambda: body(MttyUser()))


def test_a_card_moves(run):
    def body(user: MttyUser) -> None:
        source, target = user.devices
        for port, text in enumerate((b"first", b"second")):
            for byte in text:
                user.pwrite(source, bytes([byte]), port << 40)
        saved = user.set_state(source, PRE_COPY)
        data = user.pread(saved, 4096, 0)
        assert len(data) == 24
        assert user.set_state(source, STOP_COPY) == -1
        data += user.pread(saved, 4096, 0)
        assert len(data) == 96
        resumed = user.set_state(target, RESUMING)
        assert [user.pwrite(resumed, part, 0) for part in (data[:30], data[30:])] == [30, 66]
        assert user.set_state(target, RUNNING) == -1
        assert b"".join(user.pread(target, 1, 1 << 40) for _ in range(6)) == b"second"
        assert user.set_state(source, STOP) == -1
        assert refusal(user.pread, saved, 1, 0) == ENODEV

    run(body)


def test_bad_state_is_refused(run):
    def body(user: MttyUser) -> None:
        device = user.devices[0]
        resumed = user.set_state(device, RESUMING)
        assert refusal(user.set_state, device, RUNNING) == EINVAL
        assert user.state(device) == RESUMING
        assert refusal(user.pwrite, resumed, bytes(24), 0) == EFAULT
        assert refusal(user.pwrite, resumed, bytes(73), 0) == ENOMEM
        user.ioctl(device, uapi.VFIO_DEVICE_RESET)
        assert user.state(device) == RUNNING

    run(body)


def test_every_step_of_the_state_machine_leads_on():
    for start, row in VFIO_FROM_FSM_TABLE.items():
        for step in row:
            assert step == 0 or step in VFIO_FROM_FSM_TABLE, start


def test_configuration_space(run):
    def body(user: MttyUser) -> None:
        device = user.devices[0]
        assert user.pread(device, 8, CONFIG) == b"HCS2\x01\x00\x00\x02"
        for bar in (0x10, 0x14, 0x18):
            user.pwrite(device, b"\xff" * 4, CONFIG + bar)
        assert [user.pread(device, 4, CONFIG + bar).hex() for bar in (0x10, 0x14, 0x18)] == [
            "f9ffffff", "f9ffffff", "00000000",
        ]  # fmt: skip
        user.pwrite(device, b"\xaa\xbb", CONFIG + 0x3C)
        assert user.pread(device, 2, CONFIG + 0x3C) == b"\xaa\x01"
        assert refusal(user.pread, device, 1, 8 << 40) == EFAULT

    run(body)
