# SPDX-License-Identifier: GPL-2.0-only
"""PCI functions: what they show (as the reference machine's do), and what they do."""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EBUSY, EINVAL, EIO, ENOTTY
from typing import Any

import pytest
from bare_machine import BareMachine

from uvfio.devices.e1000e import E1000e
from uvfio.devices.edu import Edu
from uvfio.devices.host_bridge import HostBridge
from uvfio.devices.pci_testdev import PciTestdev
from uvfio.linux.base import pci
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_read, kernfs_write
from uvfio.linux.kernel.mutex import Mutex
from uvfio.runtime.errors import Errno, Splat
from uvfio.uapi.pci_regs import PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_MASTER

EDU, TESTDEV, E1000E = "0000:00:01.0", "0000:00:02.0", "0000:00:03.0"

# Configuration space of the reference machine: offset, what it read, and what it read
# after ones and after zeros had been written. What is not listed read 0 throughout, or
# (from 0x40 on) what was written.
CONFIG = {
    EDU: """
        000 11e81234 11e81234 11e81234
        004 00100103 00100507 00100000
        008 00ff0010 00ff0010 00ff0010
        00c 00000000 000000ff 00000000
        010 fea00000 fff00000 00000000
        02c 11001af4 11001af4 11001af4
        034 00000040 00000040 00000040
        03c 0000010a 000001ff 00000100
        040 00800005 00810005 00800005
        044 00000000 fffffffc 00000000
        048 00000000 ffffffff 00000000
        0fc 00000000 ffffffff 00000000
    """,
    TESTDEV: """
        000 00051b36 00051b36 00051b36
        004 00000103 00000507 00000000
        008 00ff0000 00ff0000 00ff0000
        010 feb44000 fffff000 00000000
        014 0000c001 ffffff01 00000001
        018 00000000 00000000 00000000
        02c 11001af4 11001af4 11001af4
        034 00000000 00000000 00000000
        03c 00000000 000000ff 00000000
    """,
    E1000E: """
        000 10d38086 10d38086 10d38086
        004 00100103 00100507 00100000
        008 02000000 02000000 02000000
        010 feb00000 fffe0000 00000000
        014 feb20000 fffe0000 00000000
        018 0000c141 ffffffe1 00000001
        01c feb40000 ffffc000 00000000
        02c 00008086 00008086 00008086
        034 000000c8 000000c8 000000c8
        03c 0000010b 000001ff 00000100
        0a0 00040011 c0040011 00040011
        0a4 00000003 00000003 00000003
        0a8 00002003 00002003 00002003
        0c8 0022d001 0022d001 0022d001
        0cc 00000000 00001f03 00000000
        0d0 0080e005 0081e005 0080e005
        0e0 0091a010 0091a010 0091a010
        0e4 00008000 00008000 00008000
        0e8 00000000 00000000 00000000
        0ec 00000411 00000411 00000411
        0f0 00110000 00110000 00110000
        100 14020001 14020001 14020001
        104 00000000 00000000 00000000
        10c 00462030 03fff030 00000000
        114 0000e000 0000f1c1 00000000
        118 000000a0 000001e0 000000a0
        140 00010003 00010003 00010003
        144 ff123456 ff123456 ff123456
        148 525400ff 525400ff 525400ff
        14c 00000000 ffffffff 00000000
    """,
}


def in_kernel(body: Callable[[], None]) -> None:
    """Run *body* with the devices of the reference machine."""

    def run() -> None:
        pci.pci_init()
        pci.pci_add_device(HostBridge(), "0000:00:00.0")
        pci.pci_add_devices([(Edu(), EDU), (PciTestdev(), TESTDEV), (E1000e(), E1000E)])
        body()

    BareMachine().run(run)


def pdev(bdf: str) -> pci.PciDev:
    return pci.pci_host().found[bdf]


def read(path: str) -> str:
    node = kernfs_find("/sys/devices/pci0000:00/" + path)
    assert node is not None, path
    return kernfs_read(node).decode("latin-1")


def write(path: str, text: str) -> int:
    node = kernfs_find("/sys/devices/pci0000:00/" + path)
    assert node is not None, path
    try:
        kernfs_write(node, text.encode())
    except Errno as e:
        return e.number
    return 0


@pytest.mark.parametrize("bdf", CONFIG)
def test_configuration_space_is_that_of_the_reference_machine(bdf: str) -> None:
    def body() -> None:
        config = pdev(bdf).config
        for line in CONFIG[bdf].strip().splitlines():
            off, was, ones, zeros = (int(word, 16) for word in line.split())
            assert config.read(off, 4) == was, f"{off:#x}"
            config.write(off, 4, 0xFFFFFFFF)
            assert config.read(off, 4) == ones, f"{off:#x} after ones"
            config.write(off, 4, 0)
            assert config.read(off, 4) == zeros, f"{off:#x} after zeros"
            config.write(off, 4, was)

    in_kernel(body)


def test_bytes_of_configuration_space_can_be_written_alone() -> None:
    def body() -> None:
        config = pdev(EDU).config
        config.write(0x3C, 1, 0x55)
        assert config.read(0x3C, 2) == 0x155
        config.write(0x45, 1, 0xAB)
        assert config.read(0x44, 4) == 0xAB00
        assert config.read(256, 4) == 0xFFFFFFFF

    in_kernel(body)


def test_sysfs_shows_what_the_reference_machine_shows() -> None:
    def body() -> None:
        assert read(E1000E + "/resource").splitlines()[:5] == [
            "0x00000000feb00000 0x00000000feb1ffff 0x0000000000040200",
            "0x00000000feb20000 0x00000000feb3ffff 0x0000000000040200",
            "0x000000000000c140 0x000000000000c15f 0x0000000000040101",
            "0x00000000feb40000 0x00000000feb43fff 0x0000000000040200",
            "0x0000000000000000 0x0000000000000000 0x0000000000000000",
        ]
        assert len(read(EDU + "/resource").splitlines()) == 13
        assert [read(f"{bdf}/irq") for bdf in (EDU, TESTDEV, E1000E)] == ["10\n", "0\n", "11\n"]
        assert read(EDU + "/modalias") == "pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00\n"
        assert read(EDU + "/uevent") == (
            "PCI_CLASS=FF00\nPCI_ID=1234:11E8\nPCI_SUBSYS_ID=1AF4:1100\nPCI_SLOT_NAME=0000:00:01.0\n"
            "MODALIAS=pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00\n"
        )
        assert read(EDU + "/class") == "0x00ff00\n"
        assert read(EDU + "/revision") == "0x10\n"
        assert len(read(E1000E + "/config")) == 4096
        assert read(E1000E + "/serial_number") == "52-54-00-ff-ff-12-34-56\n"
        assert read(E1000E + "/max_link_width") == "255\n"
        assert read(E1000E + "/current_link_speed") == "Unknown\n"

    in_kernel(body)


def test_reset_files_exist_where_a_function_can_be_reset() -> None:
    def body() -> None:
        assert kernfs_find(f"/sys/devices/pci0000:00/{EDU}/reset") is None
        assert read(E1000E + "/reset_method") == "pm\n"
        assert [write(E1000E + "/reset", text) for text in ("0", "x", "2", "1")] == [EINVAL, EINVAL, EINVAL, 0]
        assert write(E1000E + "/reset_method", "flr") == EINVAL
        assert write(E1000E + "/reset_method", "\n") == 0
        assert read(E1000E + "/reset_method") == ""
        assert write(E1000E + "/reset", "1") == ENOTTY
        assert write(E1000E + "/reset_method", "default") == 0
        assert read(E1000E + "/reset_method") == "pm\n"

    in_kernel(body)


def test_enable_counts() -> None:
    def body() -> None:
        assert write(EDU + "/enable", "1") == 0
        assert read(EDU + "/enable") == "1\n"
        assert [write(EDU + "/enable", text) for text in ("0", "0", "x")] == [0, EIO, EINVAL]

    in_kernel(body)


def test_a_reset_clears_the_device_and_keeps_what_the_kernel_set_up() -> None:
    def body() -> None:
        dev = pdev(E1000E)
        pci.pci_set_master(dev)
        before = dev.config.read_bytes(0, 64)
        dev.model.bar_write(0, 0x5000, 4, 0x12345678)
        pci.pci_reset_function(dev)
        assert dev.model.bar_read(0, 0x5000, 4) == 0x300
        assert dev.config.read_bytes(0, 64) == before
        with dev.mutex, pytest.raises(Errno) as caught:
            pci.pci_try_reset_function(dev)
        assert caught.value.number == EAGAIN
        with pytest.raises(Errno) as caught:
            pci.pci_reset_function(pdev(EDU))
        assert caught.value.number == ENOTTY

    in_kernel(body)


class Heard(list[str]):
    """A handler for each name; remembers who was called."""

    def handler(self, name: str, then: Callable[[], None] = lambda: None) -> Callable[[], None]:
        def handle() -> None:
            self.append(name)
            then()

        return handle


def test_intx_is_a_level_and_disintx_holds_it_back() -> None:
    def body() -> None:
        dev, heard = pdev(EDU), Heard()
        pci.pci_request_irq(dev, "intx", 0, heard.handler("irq", lambda: pci.pci_intx(dev, False)))
        dev.set_intx(True)
        assert heard == ["irq"]
        assert pci.pci_check_and_unmask_intx(dev) is False
        pci.pci_intx(dev, True)
        assert heard == ["irq", "irq"]
        dev.set_intx(False)
        assert pci.pci_check_and_mask_intx(dev) is False
        assert pci.pci_check_and_unmask_intx(dev) is True
        assert heard == ["irq", "irq"]
        assert not dev.config.read(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE

    in_kernel(body)


def test_the_controller_can_hold_a_line_back_too() -> None:
    def body() -> None:
        dev, heard = pdev(EDU), Heard()
        pci.pci_request_irq(dev, "intx", 0, heard.handler("irq", lambda: pci.disable_irq(dev)))
        dev.set_intx(True)
        assert heard == ["irq"]
        dev.set_intx(False)
        pci.enable_irq(dev)
        assert heard == ["irq"]
        dev.set_intx(True)
        assert heard == ["irq", "irq"]

    in_kernel(body)


def test_a_line_that_nobody_cares_about_is_shut_off() -> None:
    def body() -> None:
        dev, heard = pdev(EDU), Heard()
        pci.pci_request_irq(dev, "intx", 0, heard.handler("irq"))
        dev.set_intx(True)
        assert len(heard) == 1000
        dev.set_intx(True)
        assert len(heard) == 1000

    in_kernel(body)


def test_a_line_stays_asserted_while_the_kernel_forgets_the_device() -> None:
    def body() -> None:
        pdev(EDU).set_intx(True)
        assert write(EDU + "/remove", "1") == 0
        pci.pci_rescan_bus()
        heard = Heard()
        pci.pci_request_irq(pdev(EDU), "intx", 0, heard.handler("irq", lambda: pci.pci_intx(pdev(EDU), False)))
        assert heard == ["irq"]

    in_kernel(body)


def test_a_handler_must_not_sleep() -> None:
    def body() -> None:
        dev, lock = pdev(EDU), Mutex("lock")
        pci.pci_request_irq(dev, "intx", 0, lock.lock)
        dev.set_intx(True)

    with pytest.raises(Splat, match=r"^sleeping-in-atomic: test sleeps in an interrupt handler$"):
        in_kernel(body)


def test_msi_needs_to_be_enabled_and_ends_with_its_last_handler() -> None:
    def body() -> None:
        dev, heard = pdev(EDU), Heard()
        edu = dev.model
        pci.pci_request_irq(dev, "msi", 0, heard.handler("msi"))
        edu.bar_write(0, 0x60, 4, 1)
        assert heard == []  # a message is a write to memory
        pci.pci_set_master(dev)
        assert edu.config.read(dev.msi_cap + 2, 2) & 1
        edu.bar_write(0, 0x60, 4, 1)
        assert heard == ["msi"]
        with pytest.raises(Errno) as caught:
            pci.pci_request_irq(dev, "msi", 0, heard.handler("again"))
        assert caught.value.number == EBUSY
        with pytest.raises(Errno) as caught:
            pci.pci_request_irq(dev, "msi", 1, heard.handler("beyond"))
        assert caught.value.number == EINVAL
        pci.pci_free_irq(dev, "msi", 0)
        assert not edu.config.read(dev.msi_cap + 2, 2) & 1
        edu.bar_write(0, 0x60, 4, 1)
        assert heard == ["msi"]

    in_kernel(body)


def test_msix_vectors_are_masked_one_by_one_and_remembered() -> None:
    def body() -> None:
        dev, heard = pdev(E1000E), Heard()
        model: Any = dev.model
        pci.pci_alloc_irq_vectors(dev, "msix", 5)
        pci.pci_request_irq(dev, "msix", 0, heard.handler("zero"))
        pci.pci_set_master(dev)
        model.raise_msix(0)
        model.raise_msix(1)
        assert heard == ["zero"]
        assert model.bar_read(3, 0x2000, 8) == 0b10
        pci.pci_request_irq(dev, "msix", 1, heard.handler("one"))
        assert heard == ["zero", "one"]
        assert model.bar_read(3, 0x2000, 8) == 0
        flags = dev.config.read(dev.msix_cap + 2, 2)
        dev.config.write(dev.msix_cap + 2, 2, flags | 0x4000)
        model.raise_msix(1)
        assert heard == ["zero", "one"]
        dev.config.write(dev.msix_cap + 2, 2, flags)
        assert heard == ["zero", "one", "one"]

    in_kernel(body)


def test_the_msix_table_takes_wide_accesses_only() -> None:
    def body() -> None:
        model: Any = pdev(E1000E).model
        assert model.bar_read(3, 12, 4) == 1
        model.bar_write(3, 0, 4, 0xFFFFFFFF)
        assert [model.bar_read(3, 0, size) for size in (1, 2, 4, 8)] == [0, 0, 0xFFFFFFFF, 0xFFFFFFFF]
        model.bar_write(3, 0, 1, 0)
        assert model.bar_read(3, 0, 4) == 0xFFFFFFFF
        model.bar_write(3, 0, 8, 0)
        assert model.bar_read(3, 0, 4) == 0
        model.bar_write(3, 0x2000, 4, 0xFF)
        assert model.bar_read(3, 0x2000, 4) == 0

    in_kernel(body)


def test_e1000e_interrupts_by_cause() -> None:
    def body() -> None:
        dev, heard = pdev(E1000E), Heard()
        model: Any = dev.model
        pci.pci_request_irq(dev, "intx", 0, heard.handler("intx", lambda: pci.pci_intx(dev, False)))
        model.bar_write(0, 0xC8, 4, 0x4)
        assert heard == []
        model.bar_write(0, 0xD0, 4, 0x4)
        assert heard == ["intx"]
        assert model.bar_read(0, 0xC0, 4) == 1 << 31 | 0x4
        assert model.bar_read(0, 0xC0, 4) == 0
        assert not dev.irq_line
        model.bar_write(2, 0, 4, 0x5400)
        assert model.bar_read(2, 4, 4) == 0x12005452

    in_kernel(body)


class FlatIommu:
    """Translates to a bytearray, page 0 missing."""

    def __init__(self) -> None:
        self.memory = bytearray(1 << 16)

    def translate(self, iova: int, n: int, write: bool) -> list[tuple[Any, int, int]]:
        if iova < 4096:
            raise pci.DmaFault(iova)
        half = n // 2
        return [(self, iova, half), (self, iova + half, n - half)]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.memory[offset : offset + len(buffer)]

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        self.memory[offset : offset + len(data)] = data


def test_dma_needs_bus_mastering_and_a_translation() -> None:
    def body() -> None:
        dev, iommu = pdev(EDU), FlatIommu()
        dev.iommu = iommu
        with pytest.raises(pci.DmaFault, match=r"^DMA fault at 0x2000$"):
            dev.dma_read(0x2000, 4)
        pci.pci_set_master(dev)
        dev.dma_write(0x2000, b"hello")
        assert iommu.memory[0x2000:0x2005] == b"hello"
        assert dev.dma_read(0x2001, 4) == b"ello"
        with pytest.raises(pci.DmaFault):
            dev.dma_write(0, b"x")
        assert dev.try_dma_write(0, b"x") is False
        pci.pci_clear_master(dev)
        assert not dev.config.read(PCI_COMMAND, 2) & PCI_COMMAND_MASTER

    in_kernel(body)


@pytest.mark.parametrize("bdf", ["0000:00:1.0", "00:01.0", "0000:00:01.8", "x", "0000:00:01", "0000:00:zz.0", ""])
def test_a_bad_address_is_refused(bdf: str) -> None:
    with pytest.raises(ValueError, match=rf"^'{bdf}' must look like 0000:00:01.0$"):
        pci.parse_bdf(bdf)


def test_a_slot_is_taken_once() -> None:
    def body() -> None:
        with pytest.raises(Errno) as caught:
            pci.pci_add_device(Edu(), EDU)
        assert caught.value.number == EBUSY

    in_kernel(body)


def test_capabilities_are_found_by_id() -> None:
    def body() -> None:
        dev = pdev(E1000E)
        assert [pci.pci_find_capability(dev, cap) for cap in (0x01, 0x05, 0x10, 0x11, 0x09)] == [
            0xC8, 0xD0, 0xE0, 0xA0, 0
        ]  # fmt: skip
        assert [pci.pci_find_ext_capability(dev, cap) for cap in (1, 3, 13)] == [0x100, 0x140, 0]
        assert pci.pci_find_ext_capability(pdev(EDU), 1) == 0
        assert pci.pci_find_capability(pdev(TESTDEV), 0x05) == 0

    in_kernel(body)
