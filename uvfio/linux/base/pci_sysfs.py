# SPDX-License-Identifier: GPL-2.0-only
"""
What a PCI function shows in sysfs. Mirrors ``drivers/pci/pci-sysfs.c``.

All differences from Linux:

* ``resourceN`` cannot be mapped;
* ``firmware_node``, ``link/``, ``slots/``, ``resource_alignment``, ``msi_irqs/``, the service
  devices of ports (``...:pcie001``) are not there;
* ``irq`` does not follow MSI, and the bits of ``dma_mask_bits`` are always 32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from errno import EBUSY, EINVAL, EIO, EPERM

from uvfio.linux.base import core, pci_iov, pci_probe, pci_reset
from uvfio.linux.base.pci_dev import (
    Bar,
    PciDev,
    pci_find_capability,
    pci_find_ext_capability,
    pci_pcie_type,
    pci_power_state,
)
from uvfio.linux.base.private import AnyAttribute
from uvfio.linux.base.sysfs import kstrtoul
from uvfio.linux.kernel.kernfs import PAGE_SIZE, Attribute, BinAttribute
from uvfio.linux.kernel.process import CAP_SYS_ADMIN, capable
from uvfio.runtime.errors import Errno
from uvfio.uapi.pci_regs import (
    PCI_CAP_ID_EXP,
    PCI_EXP_TYPE_RC_END,
    PCI_EXT_CAP_ID_DSN,
    PCI_SECONDARY_BUS,
    PCI_SUBORDINATE_BUS,
)

IORESOURCE_IO = 0x100
IORESOURCE_MEM = 0x200
IORESOURCE_PREFETCH = 0x2000
IORESOURCE_MEM_64 = 0x100000
IORESOURCE_SIZEALIGN = 0x40000
PREFETCHABLE_WINDOW = IORESOURCE_MEM | IORESOURCE_PREFETCH | IORESOURCE_MEM_64 | 1  # the register's type bit
POWER_STATES = ("D0", "D1", "D2", "D3hot")
LINK: Mapping[str, str] = {
    "current_link_speed": "2.5 GT/s PCIe",
    "current_link_width": "1",
    "max_link_speed": "2.5 GT/s PCIe",
    "max_link_width": "1",
}


def modalias(dev: PciDev) -> str:
    code = dev.class_code
    return (
        f"pci:v{dev.vendor:08X}d{dev.device:08X}sv{dev.subsystem_vendor:08X}sd{dev.subsystem_device:08X}"
        f"bc{code >> 16 & 0xFF:02X}sc{code >> 8 & 0xFF:02X}i{code & 0xFF:02X}"
    )


def bus_attributes() -> Sequence[AnyAttribute]:
    return (Attribute("rescan", 0o200, store=rescan_store),)


def dev_attributes(dev: PciDev) -> Sequence[AnyAttribute]:
    def set_parity(data: bytes) -> None:
        dev.broken_parity_status = int(bool(kstrtoul(data)))

    attrs: list[AnyAttribute] = [
        _text("vendor", f"0x{dev.vendor:04x}"),
        _text("device", f"0x{dev.device:04x}"),
        _text("subsystem_vendor", f"0x{dev.subsystem_vendor:04x}"),
        _text("subsystem_device", f"0x{dev.subsystem_device:04x}"),
        _text("class", f"0x{dev.class_code:06x}"),
        _text("revision", f"0x{dev.revision:02x}"),
        _text("modalias", modalias(dev)),
        Attribute("power_state", 0o444, lambda: f"{POWER_STATES[pci_power_state(dev)]}\n"),
        _text("ari_enabled", "0"),
        _text("dma_mask_bits", "32"),
        _text("consistent_dma_mask_bits", "32"),
        _text("local_cpus", "3"),
        _text("local_cpulist", "0-1"),
        _text("irq", str(dev.irq)),
        Attribute("resource", 0o444, lambda: resource_show(dev)),
        Attribute("enable", 0o644, lambda: f"{dev.enable_cnt}\n", lambda data: enable_store(dev, data)),
        Attribute("broken_parity_status", 0o644, lambda: f"{dev.broken_parity_status}\n", set_parity),
        Attribute("msi_bus", 0o644, lambda: f"{dev.msi_bus}\n", lambda data: msi_bus_store(dev, data)),
        Attribute(
            "driver_override",
            0o644,
            lambda: f"{dev.driver_override or '(null)'}\n",
            lambda data: driver_override_store(dev, data),
        ),
        BinAttribute(
            "config",
            0o644,
            dev.config.size,
            lambda off, n: config_read(dev, off, n),
            lambda off, data: config_write(dev, off, data),
        ),
    ]
    if dev.physfn is None:  # a virtual function comes and goes with the others
        attrs.append(Attribute("remove", 0o220, store=lambda data: remove_store(dev, data)))
        attrs.append(Attribute("rescan", 0o200, store=rescan_store))
    for i, bar in enumerate(dev.bars):
        if bar.size:
            attrs.append(_resource(dev, i))
    attrs += pci_iov.sriov_attributes(dev)
    return [*attrs, *_express_attributes(dev), *_reset_attributes(dev), *_bridge_attributes(dev)]


def remove_dev_files(dev: PciDev) -> None:
    """``pci_remove_sysfs_dev_files()``: the resource files go before the device does."""
    for i, bar in enumerate(dev.bars):
        if bar.size:
            core.device_remove_file(dev, f"resource{i}")


def resource_show(dev: PciDev) -> str:
    """Six BARs, the ROM, six BARs of virtual functions, and of a bridge its windows."""
    ranges = [*(_bar_resource(bar) for bar in dev.bars), (0, 0, 0)]
    if dev.sriov is not None:
        ranges += [_bar_resource(bar, dev.sriov.total_VFs) for bar in dev.sriov.bars]
    else:
        ranges += [(0, 0, 0)] * len(dev.bars)
    if dev.subordinate is not None:
        ranges += [_window_resource(dev, kind) for kind in ("io", "mem32", "mem64")] + [(0, 0, 0)]
    return "".join(f"0x{start:016x} 0x{end:016x} 0x{flags:016x}\n" for start, end, flags in ranges)


def _bar_resource(bar: Bar, count: int = 1) -> tuple[int, int, int]:
    """Of one function, or of *count* that follow each other."""
    if not bar.size:
        return 0, 0, 0
    flags = bar.flags | IORESOURCE_SIZEALIGN | (IORESOURCE_IO if bar.kind == "io" else IORESOURCE_MEM)
    flags |= IORESOURCE_PREFETCH if bar.prefetch else 0
    flags |= IORESOURCE_MEM_64 if bar.kind == "mem64" else 0
    return bar.addr, bar.addr + bar.size * count - 1, flags


def _window_resource(dev: PciDev, kind: str) -> tuple[int, int, int]:
    if kind not in dev.model.windows:
        return 0, 0, 0
    flags = {"io": IORESOURCE_IO, "mem32": IORESOURCE_MEM, "mem64": PREFETCHABLE_WINDOW}[kind]
    return *dev.model.windows[kind], flags


def driver_override_store(dev: PciDev, data: bytes) -> None:
    if len(data) >= PAGE_SIZE:
        raise Errno(EINVAL)
    name = data.split(b"\n", 1)[0].decode("latin-1")
    dev.driver_override = name or None  # not under device.mutex: an unbind that waits holds that


def enable_store(dev: PciDev, data: bytes) -> None:
    wanted = kstrtoul(data)
    if not capable(CAP_SYS_ADMIN):
        raise Errno(EPERM)
    with dev.mutex:
        if dev.driver is not None:
            raise Errno(EBUSY)
        if wanted:
            pci_reset.pci_enable_device(dev)
        elif dev.enable_cnt:
            pci_reset.pci_disable_device(dev)
        else:
            raise Errno(EIO)


def msi_bus_store(dev: PciDev, data: bytes) -> None:
    wanted = kstrtoul(data)
    if not capable(CAP_SYS_ADMIN):
        raise Errno(EPERM)
    dev.msi_bus = int(bool(wanted))


def remove_store(dev: PciDev, data: bytes) -> None:
    if kstrtoul(data) and core.device_remove_file_self(dev, "remove"):
        pci_probe.pci_stop_and_remove_bus_device_locked(dev)


def rescan_store(data: bytes) -> None:
    if kstrtoul(data):
        pci_probe.pci_rescan_bus()


def config_read(dev: PciDev, off: int, n: int) -> bytes:
    limit = dev.config.size if capable(CAP_SYS_ADMIN) else 64
    return dev.config.read_bytes(off, max(0, min(n, limit - off)))


def config_write(dev: PciDev, off: int, data: bytes) -> int:
    data = data[: max(0, dev.config.size - off)]
    at = 0
    while at < len(data):
        # Naturally aligned accesses of at most four bytes, as pci_write_config() makes.
        size = next(s for s in (4, 2, 1) if (off + at) % s == 0 and at + s <= len(data))
        dev.config.write(off + at, size, int.from_bytes(data[at : at + size], "little"))
        at += size
    return len(data)


def _text(name: str, value: str) -> Attribute:
    return Attribute(name, 0o444, lambda: value + "\n")


def _resource(dev: PciDev, index: int) -> BinAttribute:
    """``resourceN``: ports can be read and written, memory only be mapped."""
    bar = dev.bars[index]

    def read(off: int, n: int) -> bytes:
        _check_port_access(off, n)
        return dev.model.bar_read(index, off, n).to_bytes(n, "little")

    def write(off: int, data: bytes) -> int:
        _check_port_access(off, len(data))
        dev.model.bar_write(index, off, len(data), int.from_bytes(data, "little"))
        return len(data)

    ports = bar.kind == "io"
    return BinAttribute(
        f"resource{index}", 0o600, bar.size, read if ports else None, write if ports else None, mappable=not ports
    )


def _check_port_access(off: int, n: int) -> None:
    if n not in (1, 2, 4) or off % n:
        raise Errno(EINVAL, f"ports must be accessed by 1, 2 or 4 aligned bytes, not {n} at {off:#x}")


def _express_attributes(dev: PciDev) -> list[AnyAttribute]:
    if not pci_find_capability(dev, PCI_CAP_ID_EXP):
        return []
    link = LINK
    if pci_pcie_type(dev) == PCI_EXP_TYPE_RC_END:  # it has none, whatever its registers say
        link = {"current_link_speed": "Unknown", "current_link_width": "0", "max_link_speed": "Unknown",
                "max_link_width": "255"}  # fmt: skip
    attrs = [_text(name, value) for name, value in link.items()]
    serial = pci_find_ext_capability(dev, PCI_EXT_CAP_ID_DSN)
    if serial:
        number = dev.config.read_bytes(serial + 4, 8)[::-1].hex("-")
        attrs.append(Attribute("serial_number", 0o400, lambda: number + "\n"))
    return [*attrs]


def _bridge_attributes(dev: PciDev) -> list[AnyAttribute]:
    bus = dev.subordinate
    if bus is None:
        return []

    def reset(data: bytes) -> None:
        if kstrtoul(data) and bus.devices:
            pci_reset.pci_reset_bus(bus.devices[0])

    return [
        Attribute("secondary_bus_number", 0o444, lambda: f"{dev.config.read(PCI_SECONDARY_BUS, 1)}\n"),
        Attribute("subordinate_bus_number", 0o444, lambda: f"{dev.config.read(PCI_SUBORDINATE_BUS, 1)}\n"),
        Attribute("reset_subordinate", 0o200, store=reset),
    ]


def _reset_attributes(dev: PciDev) -> list[AnyAttribute]:
    if not dev.reset_methods:
        return []

    def reset(data: bytes) -> None:
        if kstrtoul(data) != 1:
            raise Errno(EINVAL)
        pci_reset.pci_reset_function(dev)

    return [
        Attribute("reset", 0o200, store=reset),
        Attribute(
            "reset_method",
            0o644,
            lambda: " ".join(dev.reset_methods) + "\n" * bool(dev.reset_methods),
            lambda data: reset_method_store(dev, data),
        ),
    ]


def reset_method_store(dev: PciDev, data: bytes) -> None:
    """Errno EINVAL for a method the hardware has not."""
    names = data.decode("latin-1").split()
    available = pci_reset.pci_reset_methods(dev)
    if names == ["default"]:
        dev.reset_methods = available
        return
    if any(name not in available for name in names):
        raise Errno(EINVAL, f"reset methods are {' '.join(available)}")
    dev.reset_methods = names
