# SPDX-License-Identifier: GPL-2.0-only
"""
Debian's PCI programs on our devices: what they show is what the models have, and what they
change is changed. For three devices the reference kernel's lspci must print the same.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients_build import uvfio_run
from shared import need, need_program

from uvfio.devices.config import PciConfig
from uvfio.devices.registry import MODELS, make
from uvfio.linux.base.pci import PciDev, pci_host
from uvfio.machine import Machine, Plugged
from uvfio.uapi import pci_regs as regs

pytestmark = pytest.mark.live

# Every PCI model, on the root bus and behind a bridge.
OPTIONS = (
    *("nvme", "edu", "ioat", "e1000e", "pci-testdev"),
    *("pcie-root-port,id=port", "nvme,serial=behind,bus=port"),
    *("x3130-upstream,id=up", "xio3130-downstream,bus=up,id=down", "ioat,bus=down"),
    *("pcie-pci-bridge,id=old", "edu,bus=old"),
)
# As lspci calls them.
CAPABILITIES = {
    1: "Power Management",
    5: "MSI",
    0x0D: "Subsystem",
    0x10: "Express",
    0x11: "MSI-X",
}
EXTENDED = {1: "Advanced Error Reporting", 3: "Device Serial Number", 0x0D: "Access Control Services"}
PORTS = {
    0: "Endpoint",
    4: "Root Port (Slot-)",
    5: "Upstream Port",
    6: "Downstream Port (Slot-)",
    7: "PCI-Express to PCI/PCI-X Bridge",
    9: "Root Complex Integrated Endpoint",
}


@pytest.fixture(scope="module")
def machine() -> Machine:
    machine = Machine()
    machine.boot([plugged(text) for text in OPTIONS])
    return machine


def plugged(text: str) -> Plugged:
    model, *settings = text.split(",")
    options: dict[str, str] = dict(each.split("=") for each in settings)
    bus, name = options.pop("bus", None), options.pop("id", None)
    return Plugged(model, bus=bus, id=name, options=options)


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    """By address, what ``lspci -vvvxxxx`` prints of a device."""
    lspci = need_program("lspci", "pciutils")
    run = uvfio_run([lspci, "-D", "-vvv", "-xxxx"], devices=OPTIONS)
    assert run.returncode == 0
    return blocks(run.stdout)


def blocks(text: str) -> dict[str, str]:
    return {block[:12]: block for block in text.strip().split("\n\n")}


def devices(machine: Machine) -> list[PciDev]:
    return machine.run(lambda: list(pci_host().found.values()))


def test_all_models_are_looked_at() -> None:
    assert {text.partition(",")[0] for text in OPTIONS} == set(MODELS)


def test_lspci_finds_each_byte_of_configuration_space(machine: Machine, shown: dict[str, str]) -> None:
    found = devices(machine)
    assert sorted(shown) == sorted(dev.bdf for dev in found)
    for dev in found:
        lines = re.findall(r"^[0-9a-f]{2,3}: ((?:[0-9a-f]{2} ?){16})$", shown[dev.bdf], re.M)
        assert bytes.fromhex("".join(lines)) == bytes(dev.config.data), dev


def test_lspci_decodes_the_capabilities(machine: Machine, shown: dict[str, str]) -> None:
    for dev in devices(machine):
        text = shown[dev.bdf]
        plain = [
            (at, name) for at, name in re.findall(r"^\tCapabilities: \[([0-9a-f]{2})\] ([\w-]+(?: \w+)?)", text, re.M)
        ]
        expected = [(f"{at:02x}", CAPABILITIES[number]) for at, number in capabilities(dev.config)]
        assert [(at, name[: len(want)]) for (at, name), (_, want) in zip(plain, expected, strict=True)] == expected, dev
        extended = re.findall(r"^\tCapabilities: \[([0-9a-f]{3}) v\d\] (\w+ \w+ \w+)", text, re.M)
        assert extended == [(f"{at:03x}", EXTENDED[number]) for at, number in extended_capabilities(dev.config)], dev


def test_lspci_decodes_links(machine: Machine, shown: dict[str, str]) -> None:
    for dev in devices(machine):
        express = {number: at for at, number in capabilities(dev.config)}.get(regs.PCI_CAP_ID_EXP)
        text = shown[dev.bdf]
        if express is None:
            assert "Express (" not in text
            continue
        kind = dev.config.read(express + regs.PCI_EXP_FLAGS, 2) >> 4 & 15
        assert re.search(rf"Express \(v\d\) {re.escape(PORTS[kind])}, MSI 00$", text, re.M), dev
        links = re.findall(r"(LnkCap|LnkSta):.*Speed (\S+),? Width (x\d+)", text)
        whole = [("LnkCap", "2.5GT/s,", "x1"), ("LnkSta", "2.5GT/s,", "x1")]
        assert links == ([] if kind == regs.PCI_EXP_TYPE_RC_END else whole), dev


def test_lspci_decodes_regions_groups_and_drivers(machine: Machine, shown: dict[str, str]) -> None:
    for dev in devices(machine):
        text = shown[dev.bdf]
        assert re.findall(r"^\tRegion (\d): (.*)$", text, re.M) == list(regions(dev))
        assert re.findall(r"IOMMU group: (\d+)", text) == [str(dev.iommu_group.id)]
        assert re.findall(r"routed to IRQ (\d+)", text) == ([str(dev.irq)] if dev.irq else [])
        driver = [] if dev.driver is None else [dev.driver.name]
        assert re.findall(r"Kernel driver in use: (\S+)", text) == driver, dev


def test_lspci_finds_no_nonsense(shown: dict[str, str]) -> None:
    for text in shown.values():
        assert not re.search(r"!!!|denied|[Uu]nknown|<[^<]*\?>|\[virtual\]|IRQ 0$|rev ff", text, re.M), text


def test_lspci_draws_the_tree() -> None:
    lspci = need_program("lspci", "pciutils")
    tree = uvfio_run([lspci, "-t"], devices=OPTIONS).stdout
    assert tree.splitlines() == [
        "-[0000:00]-+-00.0",
        *(f"           +-0{slot}.0" for slot in range(1, 6)),
        "           +-06.0-[01]----00.0",
        "           +-07.0-[02-03]----00.0-[03]----00.0",
        "           \\-08.0-[04]----01.0",
    ]


def test_setpci_reads_and_writes_registers_by_name() -> None:
    setpci = need_program("setpci", "pciutils")
    script = f"""
        pci() {{ {setpci} -s "$@"; }}
        pci 01.0 VENDOR_ID DEVICE_ID COMMAND CAP_EXP+8.w CAP_MSIX+2.w
        pci 01.0 COMMAND=0:2; pci 01.0 COMMAND
        pci 01.0 CAP_EXP+8.w=700f CAP_PM+4.b=3; pci 01.0 CAP_EXP+8.w CAP_PM+4.b
        pci 01.0 10.l=ffffffff; pci 01.0 BASE_ADDRESS_0 BASE_ADDRESS_1
        pci 02.0 ECAP_AER+c.l ECAP_DSN+4.l
        pci 02.0 ECAP_AER+8.l=ffffffff; pci 02.0 ECAP_AER+8.l
        pci 01.0 ECAP_AER+8.l
    """
    run = uvfio_run(["sh", "-c", script], devices=("nvme", "e1000e"))
    lines = run.stdout.split()
    assert lines[:5] == ["1234", "4e56", "0103", "2810", "001f"]
    assert lines[5:8] == ["0101", "700f", "03"]
    assert lines[8:10] == ["ffffc004", "00000008"]  # 16 KiB, and the upper half is as it was
    assert lines[10:12] == ["00462030", "ff123456"]
    e1000e = make("e1000e").config
    e1000e.write(0x108, 4, 0xFFFFFFFF)
    assert lines[12:] == [f"{e1000e.read(0x108, 4):08x}"] != ["ffffffff"]
    assert "0000:00:01.0: Instance #0 of Extended capability 0001 not found" in run.stderr


def test_the_reference_kernels_lspci_prints_the_same(tmp_path: Path) -> None:
    oracle = need("oracle/run") / "oracle" / "run"
    need_program("qemu-system-x86_64", "qemu-system-x86")
    lspci = need_program("lspci", "pciutils")
    for library in re.findall(r"/\S+", subprocess.check_output(["ldd", lspci], text=True)):
        shutil.copy(library, tmp_path)
    shutil.copy(lspci, tmp_path)
    (tmp_path / "cmd").write_text(
        "echo 1 > /proc/sys/kernel/printk; cd /sys/bus/pci\n"
        "for at in 1 2 3; do echo vfio-pci > devices/0000:00:0$at.0/driver_override; done\n"
        "for at in 1 2 3; do echo 0000:00:0$at.0 > drivers_probe; done\n"
        "cd /t; ./ld-linux-x86-64.so.2 --library-path . ./lspci -D -n -vvv -xxxx 2>/dev/null\n"
    )
    theirs = subprocess.run([oracle, tmp_path], capture_output=True, text=True, timeout=300)
    assert theirs.returncode == 0, theirs.stderr
    ours = blocks(uvfio_run([lspci, "-D", "-n", "-vvv", "-xxxx"], devices=("edu", "pci-testdev", "e1000e")).stdout)
    linux = blocks(theirs.stdout)
    for address in ("0000:00:01.0", "0000:00:02.0", "0000:00:03.0"):
        assert ours[address] == linux[address]


def test_driverctl() -> None:
    """Overrides that are not to be saved need no root; saved ones lie in the host's /etc."""
    driverctl = need_program("driverctl", "driverctl")
    script = f"""
        ctl() {{ {driverctl} "$@" || echo "failed: $?"; }}
        ctl list-devices; ctl list-overrides
        ctl --nosave set-override 0000:00:02.0 vfio-pci; ctl -v list-devices storage; ctl list-overrides
        ctl --nosave set-override 0000:00:02.0 none; ctl list-devices
        ctl --nosave unset-override 0000:00:02.0; ctl list-overrides
        ctl --nosave set-override 0000:00:02.0 nonsense
        ctl --nosave set-override 0000:00:09.0 vfio-pci
    """
    as_nobody = [need_program("setpriv", "util-linux"), "--reuid=65534", "--regid=65534", "--clear-groups"]
    run = uvfio_run([*as_nobody, "bash", "-c", script], devices=("edu", "nvme,driver=none"))
    assert run.stdout.splitlines() == [
        *("0000:00:00.0 (none)", "0000:00:01.0 vfio-pci [*]", "0000:00:02.0 (none)"),
        "0000:00:01.0 vfio-pci",
        "0000:00:02.0 vfio-pci [*] ()",
        *("0000:00:01.0 vfio-pci", "0000:00:02.0 vfio-pci"),
        *("0000:00:00.0 (none)", "0000:00:01.0 vfio-pci [*]", "0000:00:02.0 (none) [*]"),
        "failed: 1",  # it says this of every device that no other driver wants
        "0000:00:01.0 vfio-pci",
        *("failed: 1", "failed: 1"),
    ]
    assert run.stderr.splitlines() == [
        "driverctl: failed to bind device 0000:00:02.0 to driver ",
        "driverctl: no such module: nonsense",
        "driverctl: no such device: 0000:00:09.0",
    ]


def test_udevadm_and_modprobe() -> None:
    udevadm, modprobe = need_program("udevadm", "udev"), need_program("modprobe", "kmod")
    script = f"""
        {udevadm} info -q property /sys/bus/pci/devices/0000:00:01.0
        {udevadm} info -q name /dev/vfio/devices/vfio0
        {udevadm} info -q path /dev/vfio/1
        {udevadm} info -a /sys/class/vfio-dev/vfio0 | grep looking
        for each in vfio vfio-pci vfio_iommu_type1 iommufd; do {modprobe} $each || echo $each; done
        {modprobe} -q vfio-nonsense || echo nonsense
        ls -la /sys/module/vfio_pci | tail -n +4 | cut -d: -f2 | cut -c4-
        stat -f -c %T /sys/class/vfio /sys/class/vfio/..
    """
    run = uvfio_run(["sh", "-c", script])
    assert run.stderr == ""
    assert run.stdout.splitlines() == [
        *("DEVPATH=/devices/pci0000:00/0000:00:01.0", "DRIVER=vfio-pci", "PCI_CLASS=FF00", "PCI_ID=1234:11E8"),
        *("PCI_SUBSYS_ID=1AF4:1100", "PCI_SLOT_NAME=0000:00:01.0"),
        "MODALIAS=pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00",
        "SUBSYSTEM=pci",
        "vfio/devices/vfio0",
        "/devices/virtual/vfio/1",
        "  looking at device '/devices/pci0000:00/0000:00:01.0/vfio-dev/vfio0':",
        "  looking at parent device '/devices/pci0000:00/0000:00:01.0':",
        "  looking at parent device '/devices/pci0000:00':",
        "nonsense",
        *("drivers", "initstate", "parameters"),
        *("sysfs", "sysfs"),
    ]


def capabilities(config: PciConfig) -> Iterator[tuple[int, int]]:
    """Offset and number of each, in their order."""
    at = config.read(regs.PCI_CAPABILITY_LIST, 1) if config.read(regs.PCI_STATUS, 2) & regs.PCI_STATUS_CAP_LIST else 0
    while at:
        yield at, config.read(at, 1)
        at = config.read(at + 1, 1)


def extended_capabilities(config: PciConfig) -> Iterator[tuple[int, int]]:
    at = 0x100 if config.size > 0x100 and config.read(0x100, 4) else 0
    while at:
        yield at, config.read(at, 2)
        at = config.read(at, 4) >> 20


def regions(dev: PciDev) -> Iterator[tuple[str, str]]:
    """The BARs, as lspci says it."""
    for index, bar in enumerate(dev.model.bars):
        if not bar.size:
            continue
        size = f"{bar.size >> 20}M" if bar.size >> 20 else f"{bar.size >> 10}K" if bar.size >> 10 else str(bar.size)
        kind = (
            "I/O ports at {:04x}" if bar.kind == "io" else f"Memory at {{:08x}} ({bar.kind[3:]}-bit, non-prefetchable)"
        )
        yield str(index), f"{kind.format(bar.addr)} [size={size}]"
