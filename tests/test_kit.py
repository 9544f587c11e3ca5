# SPDX-License-Identifier: GPL-2.0-only
"""The device kit, by the example of docs/write-a-device.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_edu import Upstream

from uvfio.devices.kit import PciBar, PciDevice, Register
from uvfio.devices.registry import MODELS, describe, lookup, make, summary

DOC = Path(__file__).resolve().parent.parent / "docs" / "write-a-device.md"


@pytest.fixture
def checksum() -> Any:
    found = re.search(r"^```python\n(.*?)^```$", DOC.read_text(), re.M | re.S)
    assert found is not None
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(found[1], str(DOC), "exec"), names)
    device = names["Checksum"]()
    device.upstream = Upstream()
    return device


def test_the_example_adds_up_what_it_reads(checksum: Any) -> None:
    checksum.upstream.memory[0x100:0x103] = bytes((1, 2, 250))
    checksum.bar_write(0, 0x08, 8, 0x100)
    checksum.bar_write(0, 0x10, 4, 3)
    checksum.bar_write(0, 0x14, 4, 3)
    assert checksum.bar_read(0, 0x1C, 4) == 253
    assert checksum.bar_read(0, 0x18, 4) == 1
    assert checksum.bar_read(0, 0x14, 4) == 2
    assert checksum.upstream.irq_line
    checksum.bar_write(0, 0x18, 4, 1)
    assert checksum.bar_read(0, 0x18, 4) == 0
    assert not checksum.upstream.irq_line


def test_the_example_reports_a_fault(checksum: Any) -> None:
    checksum.bar_write(0, 0x08, 4, 0x10000)
    checksum.bar_write(0, 0x10, 4, 16)
    checksum.bar_write(0, 0x14, 4, 1)
    assert checksum.bar_read(0, 0x18, 4) == 3
    assert not checksum.upstream.irq_line


def test_the_example_is_about_fifty_lines(checksum: Any) -> None:
    found = re.search(r"^```python\n(.*?)^```$", DOC.read_text(), re.M | re.S)
    assert found is not None
    assert len(found[1].splitlines()) <= 56


def test_masks_access_modes_and_widths(checksum: Any) -> None:
    checksum.bar_write(0, 0x10, 4, 0xFFFFFFFF)
    assert checksum.bar_read(0, 0x10, 4) == 0x00FFFFFF
    checksum.bar_write(0, 0x00, 4, 0)
    assert checksum.bar_read(0, 0x00, 4) == 0xC5C50001
    assert checksum.bar_read(0, 0x00, 2) == 0xFFFF
    checksum.bar_write(0, 0x10, 2, 0)
    assert checksum.bar_read(0, 0x10, 4) == 0x00FFFFFF
    assert checksum.bar_read(0, 0x0C, 4) == 0xFFFFFFFF


def test_ram_is_memory_that_others_may_hold(checksum: Any) -> None:
    memory = checksum.bars[2].memory
    checksum.bar_write(2, 0x10, 8, 0x1122334455667788)
    assert memory[0x10:0x18] == bytes.fromhex("8877665544332211")
    memory[0x20] = 7
    assert checksum.bar_read(2, 0x20, 1) == 7


def test_each_device_has_its_own_state(checksum: Any) -> None:
    other = type(checksum)()
    checksum.bar_write(0, 0x10, 4, 5)
    checksum.bars[0].addr = 0x1000
    assert (other.LENGTH, other.bars[0].addr) == (0, 0)


def test_msi_and_msix_go_before_the_line(checksum: Any) -> None:
    checksum.config.write(checksum.msi_at + 2, 2, 1)
    checksum.raise_irq(0)
    assert (checksum.upstream.messages, checksum.upstream.irq_line) == (1, False)
    checksum.config.write(checksum.msix_state.cap + 2, 2, 0x8000)
    checksum.raise_irq(1)
    assert checksum.upstream.messages == 1
    assert checksum.bar_read(4, 0x800, 8) == 0b10
    checksum.bar_write(4, 16 + 12, 4, 0)
    assert checksum.upstream.messages == 2


def test_a_reset_puts_everything_back(checksum: Any) -> None:
    checksum.bar_write(0, 0x10, 4, 5)
    checksum.config.write(checksum.msi_at + 2, 2, 1)
    checksum.set_intx(True)
    checksum.reset()
    assert checksum.LENGTH == 0
    assert not checksum.msi_enabled
    assert not checksum.upstream.irq_line


def test_a_device_that_is_not_plugged_in_does_nothing(checksum: Any) -> None:
    checksum.upstream = None
    checksum.raise_irq(0)
    assert checksum.dma_read(0, 2) == b"\xff\xff"
    assert checksum.dma_write(0, b"x") is False


def test_two_registers_cannot_share_a_place() -> None:
    with pytest.raises(TypeError, match=r"^Twice: <register B 0x4> must not share its place with <register A 0x4>$"):
        type("Twice", (PciDevice,), {"A": Register(4), "B": Register(4)})


def test_a_bad_access_mode_is_named() -> None:
    with pytest.raises(ValueError, match=r"^access must be one of ro, rw, wo, w1c, not 'x'$"):
        Register(0, "x")


@pytest.mark.parametrize(
    ("bar", "value", "sized"),
    [
        (PciBar(1 << 20), 0x0, 0xFFF00000),
        (PciBar(256, "io"), 0x1, 0xFFFFFF01),
        (PciBar(1 << 20, "mem64", prefetch=True), 0xC, 0xFFFFFFFFFFF0000C),
        (PciBar(8 << 30, "mem64"), 0x4, 0xFFFFFFFE00000004),
    ],
    ids=["mem32", "io", "mem64-prefetch", "8GiB"],
)
def test_bar_sizing(bar: PciBar, value: int, sized: int) -> None:
    model: type[PciDevice] = type("Model", (PciDevice,), {"BARS": {0: bar}})
    config = model().config
    assert config.read(0x10, 8) == value
    config.write(0x10, 8, 0xFFFFFFFF_FFFFFFFF)
    assert config.read(0x10, 8) == sized if bar.kind == "mem64" else config.read(0x10, 4) == sized


@pytest.mark.parametrize("name", MODELS)
def test_every_model_describes_itself(name: str) -> None:
    text = describe(MODELS[name])
    assert text.startswith(f"{name}: {summary(MODELS[name])}\n")
    assert all(len(line) <= 120 for line in text.splitlines())


def test_describe_lists_registers() -> None:
    text = describe(MODELS["edu"])
    assert "  0    0x00020  4     rw      0x00000000          status: interrupt when computed?\n" in text
    assert "bit 7 raise_irq\n" in text
    assert "BAR 0       1 MiB (registers, mem32)" in text
    assert "interrupts  INTx, MSI (1)" in text
    assert "options     dma_mask, mmap=trap|poll" in text
    assert "BAR 4       4 KiB (registers, mem32; MSI-X table at 0x0)" in describe(MODELS["nvme"])


@pytest.mark.parametrize("name", MODELS)
def test_registers_read_as_the_data_sheet_says(name: str) -> None:
    model = make(name)
    for (bar, offset), register in model.registers.items():
        if register.reader is not None:
            continue  # what it reads as is made when it is read
        expected = model.nothing(register.size) if register.access == "wo" else register.reset
        assert model.bar_read(bar, offset, register.size) == expected, register


def test_unknown_models_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^the model must be one of e1000e, edu, .*, or FILE.py, not 'edx'$"):
        make("edx")
    with pytest.raises(ValueError, match=r"^the model edu must not be given colour$"):
        make("edu", colour="red")
    assert make("edu").name == "edu"


def test_a_model_can_be_a_file_of_ones_own(tmp_path: Path) -> None:
    found = re.search(r"^```python\n(.*?)^```$", DOC.read_text(), re.M | re.S)
    assert found is not None
    file = tmp_path / "checksum.py"
    file.write_text(found[1])
    assert make(str(file)).name == "checksum"
    assert lookup(f"{file}:Checksum").device == 0xC5C5
    with pytest.raises(ValueError, match=r"must name one class, .*:CLASS; it has Checksum$"):
        lookup(f"{file}:Other")
    with pytest.raises(ValueError, match=r"^the device file must be readable: .*: No such file or directory$"):
        lookup(str(tmp_path / "missing.py"))
    file.write_text("1 / 0\n")
    with pytest.raises(ValueError, match=r"must run, but it raised ZeroDivisionError: division by zero$"):
        lookup(str(file))


def test_pci_testdev_counts_matching_writes() -> None:
    device = make("pci-testdev")
    assert device.bar_read(0, 0, 4) == 0
    device.bar_write(0, 0, 1, 0)
    assert device.bar_read(0, 0, 4) == 0x0100
    assert [device.bar_read(0, off, 4) for off in (4, 8, 12)] == [0x800, 0xFA, 0]
    name = bytes(device.bar_read(0, 16 + i, 1) for i in range(16))
    assert name == b"mmio-no-eventfd\0"
    device.bar_write(0, 0x800, 1, 0xFA)
    device.bar_write(0, 0x801, 1, 0xFA)
    device.bar_write(0, 0x800, 1, 0xFB)
    assert device.bar_read(0, 12, 4) == 1
    device.bar_write(1, 0, 1, 2)
    assert device.bar_read(1, 0, 1) == 5
    assert bytes(device.bar_read(1, 16 + i, 1) for i in range(6)) == b"portio"
    device.bar_write(0, 0, 1, 9)
    assert device.bar_read(0, 0, 1) == 0
