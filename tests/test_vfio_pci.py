# SPDX-License-Identifier: GPL-2.0-only
"""vfio-pci: what the user sees of the device, and what reaches it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import EBADF, EINVAL, EIO

import pytest
from vfio_user import PG, VfioUser, booted, refusal

from uvfio.devices.edu import Edu
from uvfio.devices.kit import PciBar
from uvfio.linux.base.pci import DmaFault, pci_add_device, pci_host, pci_set_master
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_write
from uvfio.linux.vfio.pci.private import DISPLACED_BAR0, vfio_pci_region_at
from uvfio.linux.vfio.pci.rdwr import vfio_pci_mmap_access
from uvfio.machine import unplug
from uvfio.runtime.errors import Errno
from uvfio.uapi.iommufd import IOMMU_IOAS_MAP_FILE
from uvfio.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_MEMORY
from uvfio.uapi.vfio import (
    VFIO_DEVICE_FEATURE,
    VFIO_DEVICE_FEATURE_DMA_BUF,
    VFIO_DEVICE_FEATURE_GET,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
    VFIO_DEVICE_FEATURE_SET,
    VFIO_DEVICE_IOEVENTFD,
    VFIO_DEVICE_RESET,
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP,
)

CONFIG = 7 << 40
RAISE, ACK, IRQ_STATUS = 0x60, 0x64, 0x24
DISABLE = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER


def with_device(test: Callable[[VfioUser, int], None], *models: str) -> None:
    """Run *test(user, device)* with the device of group 1 open."""

    def run() -> None:
        user = VfioUser()
        _container, _group, device = user.open_through_group()
        test(user, device)
        user.exit()

    booted(*models).run(run)


def write32(user: VfioUser, device: int, offset: int, value: int) -> None:
    assert user.pwrite(device, struct.pack("<I", value), offset) == 4


def read32(user: VfioUser, device: int, offset: int) -> int:
    return int.from_bytes(user.pread(device, 4, offset), "little")


def hardware_command() -> int:
    return pci_host().found["0000:00:01.0"].config.read(PCI_COMMAND, 2)


def test_sizing_a_bar_does_not_move_it() -> None:
    def test(user: VfioUser, device: int) -> None:
        config = pci_host().found["0000:00:01.0"].config
        was = config.read(0x10, 4)
        write32(user, device, CONFIG + 0x10, 0xFFFFFFFF)
        assert read32(user, device, CONFIG + 0x10) == 0xFFF00000
        assert config.read(0x10, 4) == was
        write32(user, device, CONFIG + 0x14, 0xFFFFFFFF)
        assert read32(user, device, CONFIG + 0x14) == 0

    with_device(test)


def test_the_rom_and_absent_bars_read_as_zero_and_ids_cannot_be_written() -> None:
    def test(user: VfioUser, device: int) -> None:
        write32(user, device, CONFIG, 0)
        assert read32(user, device, CONFIG) == 0x11E81234
        write32(user, device, CONFIG + 0x30, 0xFFFFFFFF)
        assert read32(user, device, CONFIG + 0x30) == 0

    with_device(test)


def test_only_set_irqs_enables_msi() -> None:
    def test(user: VfioUser, device: int) -> None:
        flags = CONFIG + 0x42
        user.pwrite(device, b"\xff", flags)
        assert user.pread(device, 1, flags) == b"\x8e"
        eventfd = user.eventfd()
        user.set_eventfds(device, VFIO_PCI_MSI_IRQ_INDEX, eventfd)
        assert user.pread(device, 1, flags)[0] & 1 == 0
        user.pwrite(device, b"\x81", flags)
        assert user.pread(device, 1, flags) == b"\x81"
        write32(user, device, RAISE, 1)
        assert user.eventfd_read(eventfd) == 0  # a message is a write to memory
        user.pwrite(device, b"\x07", CONFIG + 4)
        write32(user, device, RAISE, 1)
        assert user.eventfd_read(eventfd) == 1

    with_device(test)


def test_memory_that_does_not_decode_cannot_be_reached() -> None:
    def test(user: VfioUser, device: int) -> None:
        command = user.pread(device, 2, CONFIG + PCI_COMMAND)
        user.pwrite(device, bytes([command[0] & ~PCI_COMMAND_MEMORY, command[1]]), CONFIG + PCI_COMMAND)
        assert refusal(user.pread, device, 4, 0) == EIO
        user.pwrite(device, command, CONFIG + PCI_COMMAND)
        assert read32(user, device, 0) == 0x010000ED

    with_device(test)


def test_a_line_interrupt_is_masked_until_it_is_unmasked() -> None:
    def test(user: VfioUser, device: int) -> None:
        eventfd = user.eventfd()
        user.set_eventfds(device, VFIO_PCI_INTX_IRQ_INDEX, eventfd)
        write32(user, device, RAISE, 1)
        assert user.eventfd_read(eventfd) == 1
        write32(user, device, RAISE, 2)
        assert user.eventfd_read(eventfd) == 0
        unmask = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK
        user.set_irqs(device, unmask, VFIO_PCI_INTX_IRQ_INDEX, 0, 1)
        assert user.eventfd_read(eventfd) == 1, "still asserted: the user must hear again"
        write32(user, device, ACK, 3)
        user.set_irqs(device, unmask, VFIO_PCI_INTX_IRQ_INDEX, 0, 1)
        assert user.eventfd_read(eventfd) == 0
        write32(user, device, RAISE, 1)
        assert user.eventfd_read(eventfd) == 1
        user.set_irqs(device, DISABLE, VFIO_PCI_INTX_IRQ_INDEX, 0, 0)

    with_device(test)


def test_the_resample_eventfd_unmasks() -> None:
    def test(user: VfioUser, device: int) -> None:
        eventfd, resample = user.eventfd(), user.eventfd()
        user.set_eventfds(device, VFIO_PCI_INTX_IRQ_INDEX, eventfd)
        flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK
        user.set_irqs(device, flags, VFIO_PCI_INTX_IRQ_INDEX, 0, 1, struct.pack("<i", resample))
        write32(user, device, RAISE, 1)
        assert user.eventfd_read(eventfd) == 1
        user.eventfd_write(resample)
        assert user.eventfd_read(eventfd) == 1
        write32(user, device, ACK, 1)
        user.eventfd_write(resample)
        write32(user, device, RAISE, 1)
        assert user.eventfd_read(eventfd) == 1
        user.close(device)
        user.eventfd_write(resample)

    with_device(test)


def test_disintx_of_the_user_keeps_its_interrupt_masked() -> None:
    def test(user: VfioUser, device: int) -> None:
        eventfd = user.eventfd()
        user.set_eventfds(device, VFIO_PCI_INTX_IRQ_INDEX, eventfd)
        command = struct.unpack("<H", user.pread(device, 2, CONFIG + PCI_COMMAND))[0]
        user.pwrite(device, struct.pack("<H", command | PCI_COMMAND_INTX_DISABLE), CONFIG + PCI_COMMAND)
        assert hardware_command() & PCI_COMMAND_INTX_DISABLE
        write32(user, device, RAISE, 1)
        assert user.eventfd_read(eventfd) == 0
        user.pwrite(device, struct.pack("<H", command), CONFIG + PCI_COMMAND)
        assert user.eventfd_read(eventfd) == 1

    with_device(test)


def test_a_masked_line_stays_silent() -> None:
    def test(user: VfioUser, device: int) -> None:
        eventfd = user.eventfd()
        user.set_eventfds(device, VFIO_PCI_INTX_IRQ_INDEX, eventfd)
        mask = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK
        user.set_irqs(device, mask, VFIO_PCI_INTX_IRQ_INDEX, 0, 1)
        write32(user, device, RAISE, 1)
        assert user.eventfd_read(eventfd) == 0

    with_device(test)


def test_msix_vectors_come_and_go_one_by_one() -> None:
    def test(user: VfioUser, device: int) -> None:
        index = VFIO_PCI_MSIX_IRQ_INDEX
        fds = [user.eventfd() for _ in range(5)]
        user.set_eventfds(device, index, *fds[:2])
        user.set_eventfds(device, index, fds[3], start=3)
        inject = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER
        user.set_irqs(device, inject, index, 0, 5)
        assert [user.eventfd_read(fd) for fd in fds] == [1, 1, 0, 1, 0]
        assert refusal(user.set_eventfds, device, index, fds[0], 99) == EBADF
        user.set_irqs(device, inject, index, 0, 5)
        assert [user.eventfd_read(fd) for fd in fds] == [0, 0, 0, 1, 0], "a bad block takes its vectors along"
        user.set_eventfds(device, index, -1, start=3)
        user.set_irqs(device, inject, index, 0, 5)
        assert not any(user.eventfd_read(fd) for fd in fds)
        assert user.pread(device, 2, CONFIG + 0xA2) == b"\x04\x80", "enabled until it is disabled"
        user.set_irqs(device, inject, index, 0, 0)
        assert user.pread(device, 2, CONFIG + 0xA2) == b"\x04\x00"

    with_device(test, "e1000e")


def test_closing_the_device_leaves_it_quiet() -> None:
    def run() -> None:
        user = VfioUser()
        _container, group, device = user.open_through_group()
        eventfd = user.eventfd()
        user.set_eventfds(device, VFIO_PCI_MSI_IRQ_INDEX, eventfd)
        user.pwrite(device, b"\x07", CONFIG + PCI_COMMAND)
        user.close(device)
        pdev = pci_host().found["0000:00:01.0"]
        assert not pdev.config.read(PCI_COMMAND, 2) & 4
        assert not pdev.irqs.handlers
        pdev.model.bar_write(0, RAISE, 4, 1)
        assert user.eventfd_read(eventfd) == 0
        again = user.get_device(group)
        user.set_eventfds(again, VFIO_PCI_INTX_IRQ_INDEX, eventfd)

    booted().run(run)


def test_what_the_user_wrote_is_undone_at_close_even_after_a_reset() -> None:
    def run() -> None:
        user = VfioUser()
        _container, _group, device = user.open_through_group()
        config = pci_host().found["0000:00:01.0"].config
        user.pwrite(device, b"\x55", CONFIG + 0x0C)
        user.ioctl(device, VFIO_DEVICE_RESET)
        assert config.read(0x0C, 1) == 0x55
        user.close(device)
        assert config.read(0x0C, 1) == 0

    booted("e1000e").run(run)


def test_an_ioeventfd_writes_to_the_device() -> None:
    def test(user: VfioUser, device: int) -> None:
        eventfd = user.eventfd()
        user.call(device, VFIO_DEVICE_IOEVENTFD, struct.pack("<IIQQiI", 32, 4, RAISE, 0x40, eventfd, 0))
        user.eventfd_write(eventfd)
        assert read32(user, device, IRQ_STATUS) == 0x40
        user.call(device, VFIO_DEVICE_IOEVENTFD, struct.pack("<IIQQiI", 32, 4, RAISE, 0x40, -1, 0))
        write32(user, device, ACK, 0x40)
        user.eventfd_write(eventfd)
        assert read32(user, device, IRQ_STATUS) == 0

    with_device(test)


def test_low_power_takes_mappings_away_but_not_the_registers() -> None:
    def test(user: VfioUser, device: int) -> None:
        core = user.files.get(device).private_data.device.drvdata
        assert vfio_pci_mmap_access(core, 0, 4, None) == 0x010000ED
        enter = struct.pack("<II", 8, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)
        user.call(device, VFIO_DEVICE_FEATURE, enter)
        assert refusal(vfio_pci_mmap_access, core, 0, 4, None) == EIO
        assert read32(user, device, 0) == 0x010000ED
        leave = struct.pack("<II", 8, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT)
        user.call(device, VFIO_DEVICE_FEATURE, leave)
        assert vfio_pci_mmap_access(core, 0, 4, None) == 0x010000ED

    with_device(test)


def test_a_dma_buf_is_revoked_while_memory_is_off_and_when_the_device_closes() -> None:
    def test(user: VfioUser, device: int) -> None:
        flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF
        wanted = struct.pack("<II4I2Q", 40, flags, 0, 2, 0, 1, 0, PG)
        at = user.mm.mmap(PG)
        user.mm.write(at, wanted)
        fd = user.ioctl(device, VFIO_DEVICE_FEATURE, at)
        dmabuf = user.files.get(fd).private_data
        assert (dmabuf.size, dmabuf.revoked) == (PG, False)
        user.pwrite(device, b"\0", CONFIG + PCI_COMMAND)
        assert dmabuf.revoked
        user.pwrite(device, b"\3", CONFIG + PCI_COMMAND)
        assert not dmabuf.revoked
        user.close(device)
        assert dmabuf.revoked
        user.close(fd)

    with_device(test)


def test_an_importer_keeps_a_dma_buf_whose_fd_is_closed_and_loses_its_memory_with_the_device() -> None:
    def run() -> None:
        user = VfioUser()
        iommufd, exporter = user.open_through_cdev(0)
        peer = user.open("/dev/vfio/devices/vfio1")
        user.bind(peer, iommufd)
        ioas = user.ioas_alloc(iommufd)
        user.attach(peer, ioas)
        at = user.mm.mmap(PG)
        flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF
        user.mm.write(at, struct.pack("<II4I2Q", 40, flags, 0, 2, 0, 1, 0, PG))
        fd = user.ioctl(exporter, VFIO_DEVICE_FEATURE, at)
        user.call(iommufd, IOMMU_IOAS_MAP_FILE, struct.pack("<3Ii3Q", 40, 7, ioas, fd, 0, PG, 0x100000))
        user.close(fd)
        pdev = pci_host().found["0000:00:02.0"]
        pci_set_master(pdev)
        assert pdev.dma_read(0x100000, 4) == b"\xed\x00\x00\x01"
        user.pwrite(exporter, b"\0", CONFIG + PCI_COMMAND)
        with pytest.raises(DmaFault):
            pdev.dma_read(0x100000, 4)
        user.pwrite(exporter, b"\3", CONFIG + PCI_COMMAND)
        user.close(exporter)
        with pytest.raises(DmaFault):
            pdev.dma_read(0x100000, 4)
        user.exit()
        for bdf in ("0000:00:01.0", "0000:00:02.0"):
            unplug(bdf)

    booted("edu", "edu").run(run)


class WithMemory(Edu):
    """edu with two BARs of plain memory."""

    name = "edu-with-memory"
    BARS = {0: PciBar(1 << 20), 2: PciBar(8192, ram=True), 4: PciBar(1 << 16, ram=True)}


def test_memory_bars_come_first_in_the_file() -> None:
    machine = booted("pci-testdev")

    def run() -> None:
        pdev = pci_add_device(WithMemory(), "0000:00:05.0")
        pdev.driver_override = "vfio-pci"
        probe = kernfs_find("/sys/bus/pci/drivers_probe")
        assert probe is not None
        kernfs_write(probe, b"0000:00:05.0")
        user = VfioUser()
        _container, _group, device = user.open_through_group(2, "0000:00:05.0")
        offsets = [user.region(device, index)[2] for index in range(8)]
        assert (offsets[0], offsets[2], offsets[4], offsets[7]) == (DISPLACED_BAR0, 0, 8192, CONFIG)
        assert user.region(device, 2)[0] & VFIO_REGION_INFO_FLAG_MMAP
        user.runs_guest = lambda: True  # on KVM: what must be trapped is not offered, memory is
        assert [bool(user.region(device, index)[0] & VFIO_REGION_INFO_FLAG_MMAP) for index in (0, 2, 4)] == [
            False,
            True,
            True,
        ]
        user.runs_guest = lambda: False
        core = user.files.get(device).private_data.device.drvdata
        for index in (0, 2, 4, 7):
            assert vfio_pci_region_at(core, offsets[index] + 16) == (index, 16)
        assert read32(user, device, offsets[0]) == 0x010000ED
        user.pwrite(device, b"memory", 8192 + 100)
        memory = pdev.bars[4].memory
        assert memory is not None
        assert bytes(memory[100:106]) == b"memory"
        assert refusal(user.pread, device, 4, 8192 + (1 << 16)) == EINVAL
        assert refusal(user.pread, device, 4, 2 << 40) == EINVAL
        user.mmap_file(device, 8192, 0)
        assert refusal(user.mmap_file, device, 8192 + PG, 0) == EINVAL
        assert refusal(user.mmap_file, device, 8192, 0, 3, False) == EINVAL

    machine.run(run)


def test_a_reset_waits_for_nobody() -> None:
    """A task that holds the device lock (an unbind) makes the open fail, not wait."""

    def run() -> None:
        user = VfioUser()
        container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/1")
        user.set_container(group, container)
        user.set_iommu(container)
        pdev = pci_host().found["0000:00:01.0"]
        with pdev.mutex, pytest.raises(Errno, match="EAGAIN"):
            user.get_device(group)
        user.get_device(group)

    booted("e1000e").run(run)
