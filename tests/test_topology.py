# SPDX-License-Identifier: GPL-2.0-only
"""
Bridges: buses, groups of several devices, resets of a bus, slots to plug into.

The groups, addresses and reset methods expected here are those of the reference kernel
with the same ``-device`` options of QEMU.
"""

from __future__ import annotations

import struct
from errno import EBADF, EINVAL, ENODEV, ENOSPC

import pytest
from vfio_user import VfioUser, refusal

from uvfio.linux.base.pci import PciDev, pci_host
from uvfio.linux.base.pci_sysfs import config_read, resource_show
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_find, kernfs_write
from uvfio.machine import Machine, Plugged
from uvfio.topology import place
from uvfio.uapi import vfio as uapi

# -device edu,addr=1 ... -device pcie-root-port,id=rp1,addr=4.0 -device e1000e,bus=rp1 ...
BRIDGES = (
    Plugged("edu"),
    Plugged("pcie-root-port", "04.0", id="rp1"),
    Plugged("e1000e", bus="rp1"),
    Plugged("pcie-root-port", "05.0", id="rp2"),
    Plugged("pcie-root-port", "05.1", id="rp3"),
    Plugged("edu", "00.0", bus="rp2"),
    Plugged("pci-testdev", "00.1", bus="rp2"),
    Plugged("edu", bus="rp3"),
    Plugged("pcie-pci-bridge", "06.0", id="conventional"),
    Plugged("edu", "01.0", bus="conventional"),
    Plugged("edu", "02.0", bus="conventional"),
    Plugged("edu", "07.0"),
    Plugged("edu", "07.1"),
)
SWITCH = (
    Plugged("pcie-root-port", "04.0", id="rp1"),
    Plugged("x3130-upstream", bus="rp1", id="up"),
    Plugged("xio3130-downstream", "00.0", bus="up", id="d1"),
    Plugged("xio3130-downstream", "01.0", bus="up", id="d2"),
    Plugged("edu", bus="d1"),
    Plugged("e1000e", bus="d2"),
    Plugged("pcie-root-port", "05.0", id="rp2", options={"acs": "off"}),
    Plugged("edu", bus="rp2"),
    Plugged("pcie-root-port", "06.0", id="rp3", options={"acs": "off"}),
    Plugged("pcie-root-port", "06.1", id="rp4", options={"acs": "off"}),
    Plugged("edu", bus="rp3"),
    Plugged("edu", bus="rp4"),
    Plugged("pcie-root-port", "07.0", id="rp5"),
    Plugged("pcie-pci-bridge", bus="rp5", id="conventional"),
    Plugged("edu", "01.0", bus="conventional"),
)


def booted(devices: tuple[Plugged, ...]) -> Machine:
    machine = Machine()
    machine.boot(devices)
    return machine


def node(path: str) -> KernfsNode:
    found = kernfs_find(path)
    assert found is not None, path
    return found


def function(bdf: str) -> PciDev:
    return pci_host().found[bdf]


def groups() -> list[list[str]]:
    root = node("/sys/kernel/iommu_groups")
    return [sorted(root.children[number].children["devices"].children) for number in sorted(root.children, key=int)]


def test_groups_are_those_of_the_reference_kernel() -> None:
    assert booted(BRIDGES).run(groups) == [
        ["0000:00:00.0"],
        ["0000:00:01.0"],
        ["0000:00:04.0"],
        ["0000:00:05.0"],
        ["0000:00:05.1"],
        ["0000:00:06.0", "0000:04:01.0", "0000:04:02.0"],
        ["0000:00:07.0", "0000:00:07.1"],
        ["0000:01:00.0"],
        ["0000:02:00.0", "0000:02:00.1"],
        ["0000:03:00.0"],
    ]


def test_groups_of_a_switch_and_of_ports_that_do_not_isolate() -> None:
    assert booted(SWITCH).run(groups) == [
        ["0000:00:00.0"],
        ["0000:00:04.0"],
        ["0000:00:05.0", "0000:05:00.0"],
        ["0000:00:06.0", "0000:00:06.1", "0000:06:00.0", "0000:07:00.0"],
        ["0000:00:07.0"],
        ["0000:01:00.0"],
        ["0000:02:00.0", "0000:03:00.0"],
        ["0000:02:01.0", "0000:04:00.0"],
        ["0000:08:00.0", "0000:09:01.0"],
    ]


def test_reset_methods_and_drivers_are_those_of_the_reference_kernel() -> None:
    machine = booted(BRIDGES)
    found = machine.run(lambda: {bdf: " ".join(dev.reset_methods) for bdf, dev in pci_host().found.items()})
    assert found["0000:01:00.0"] == "pm bus"
    assert found["0000:02:00.0"] == found["0000:03:00.0"] == found["0000:04:01.0"] == "bus"
    assert found["0000:02:00.1"] == found["0000:04:02.0"] == found["0000:00:04.0"] == ""
    drivers = machine.run(lambda: {bdf: dev.driver and dev.driver.name for bdf, dev in pci_host().found.items()})
    assert drivers["0000:00:04.0"] == drivers["0000:00:05.1"] == "pcieport"
    assert drivers["0000:00:06.0"] is None


def test_a_bridge_shows_its_buses_and_its_windows() -> None:
    def look() -> None:
        port = function("0000:00:04.0")
        assert port.kobj is not None
        assert {"0000:01:00.0", "pci_bus", "reset_subordinate", "secondary_bus_number"} <= set(port.kobj.children)
        assert "reset_subordinate" not in function("0000:00:01.0").kobj.children  # type: ignore[union-attr]
        assert kernfs_find("/sys/class/pci_bus/0000:01") is not None
        lines = resource_show(port).splitlines()
        assert len(lines) == 17
        assert len(resource_show(function("0000:00:01.0")).splitlines()) == 13
        # The register says what sysfs says: bits 15 to 4 are bits 31 to 20 of the address.
        first, last = (int(word, 16) for word in lines[14].split()[:2])
        base, limit = struct.unpack("<2H", config_read(port, 0x20, 4))
        assert (base << 16, limit << 16 | 0xFFFFF) == (first, last)
        for bar in function("0000:01:00.0").bars:
            low, high = (0xC000, 0xFFFF) if bar.kind == "io" else (first, last)
            assert not bar.size or low <= bar.addr <= bar.addr + bar.size - 1 <= high

    booted(BRIDGES).run(look)


def test_bars_of_the_root_bus_are_where_they_are_without_bridges() -> None:
    assert booted(BRIDGES).run(lambda: function("0000:00:01.0").bars[0].addr) == 0xFEA00000


def test_behind_a_port_a_device_is_an_endpoint() -> None:
    machine = Machine()
    machine.boot([Plugged("e1000e"), Plugged("pcie-root-port", "04.0", id="rp"), Plugged("e1000e", bus="rp")])

    def express_type(bdf: str) -> int:
        config = function(bdf).config
        at = config.read(0x34, 1)
        while config.read(at, 1) != 0x10:
            at = config.read(at + 1, 1)
        return config.read(at + 2, 2) >> 4 & 0xF

    assert machine.run(lambda: (express_type("0000:00:01.0"), express_type("0000:01:00.0"))) == (9, 0)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (
            [Plugged("edu", bus="nope")],
            "the bus must be the id or the address of a bridge (none has an id), not 'nope'",
        ),
        (
            [Plugged("pcie-root-port", id="a"), Plugged("pcie-root-port", id="a")],
            "an id must be given once, and 'a' is that of 0000:00:01.0",
        ),
        (
            [Plugged("pcie-root-port", id="a"), Plugged("edu", bus="a"), Plugged("edu", bus="a")],
            "the machine must have at most 1 devices on bus 01",
        ),
        (
            [Plugged("pcie-root-port", id="a"), Plugged("edu", "01.0", bus="a")],
            "a slot behind pcie-root-port must be 00 to 00, not 01",
        ),
        (
            [Plugged("pcie-root-port", id="a"), Plugged("edu", "0000:00:05.0", bus="a")],
            "the address must be on bus 01, not 0000:00:05.0",
        ),
        ([Plugged("edu", "0000:01:00.0")], "the address must be on bus 00, not 0000:01:00.0"),
        ([Plugged("pcie-root-port", options={"acs": "maybe"})], "acs must be on or off, not 'maybe'"),
    ],
)
def test_what_cannot_be_placed_is_said_in_one_line(devices: list[Plugged], message: str) -> None:
    with pytest.raises(ValueError, match="must") as e:
        place(devices, {}, {})
    assert str(e.value) == message


def test_buses_are_numbered_depth_first_in_the_order_of_slots() -> None:
    placed, bridges = place(SWITCH, {}, {})
    assert bridges["d2"] == "0000:02:01.0"
    by_address = {bdf: model for _plugged, model, bdf in placed}
    assert by_address["0000:00:04.0"].config.read(0x18, 3) == 0x040100  # primary 0, secondary 1, subordinate 4
    assert by_address["0000:00:07.0"].config.read(0x18, 3) == 0x090800


def test_a_slot_behind_a_bridge_is_free_again_and_its_addresses_too() -> None:
    machine = booted(BRIDGES)
    first = machine.run(lambda: function("0000:03:00.0").bars[0].addr)
    for _again in range(100):
        machine.unplug("0000:03:00.0")
        assert machine.plug(Plugged("edu", bus="rp3")) == "0000:03:00.0"
    assert machine.run(lambda: function("0000:03:00.0").bars[0].addr) == first
    assert machine.plug(Plugged("pcie-root-port", "08.0", id="late")) == "0000:00:08.0"
    assert machine.plug(Plugged("edu", bus="late")) == "0000:05:00.0"


def test_what_does_not_fit_behind_a_bridge_is_refused() -> None:
    machine = Machine()
    machine.boot([Plugged("pcie-pci-bridge", id="b")])
    for _one_mebibyte in range(2):
        machine.plug(Plugged("edu", bus="b"))
    with pytest.raises(ValueError, match="no 0x100000 bytes of mem32 are left on the bus"):
        machine.plug(Plugged("edu", bus="b"))
    assert machine.run(lambda: sorted(pci_host().found)) == [
        "0000:00:00.0", "0000:00:01.0", "0000:01:01.0", "0000:01:02.0",
    ]  # fmt: skip


def test_a_bridge_takes_along_what_is_behind_it() -> None:
    machine = booted(SWITCH)
    machine.unplug("0000:00:04.0")
    assert not any(bdf.startswith(("0000:01", "0000:02", "0000:03", "0000:04")) for bdf in machine.run(pci_host).found)
    assert machine.run(lambda: kernfs_find("/sys/class/pci_bus/0000:02")) is None
    # The numbers of groups that are gone are given out again, lowest first.
    assert machine.plug(Plugged("edu", "09.0")) == "0000:00:09.0"
    assert machine.run(groups)[1] == ["0000:00:09.0"]


# Hot reset. Group numbers: see the lists above.

INFO, RESET = uapi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, uapi.VFIO_DEVICE_PCI_HOT_RESET


def hot_reset_info(user: VfioUser, device: int, argsz: int = 64) -> tuple[int, int, list[tuple[int, int, int]]]:
    """(flags, count, [(id, bus, devfn)])."""
    answer = user.call(device, INFO, struct.pack("<3I", argsz, 0, 0) + bytes(max(argsz - 12, 0)))
    _argsz, flags, count = struct.unpack_from("<3I", answer)
    entries = [struct.unpack_from("<IHBB", answer, 12 + 8 * n) for n in range(count)]
    return flags, count, [(devid, bus, devfn) for devid, _segment, bus, devfn in entries]


def hot_reset(user: VfioUser, device: int, *fds: int, flags: int = 0) -> int:
    data = struct.pack(f"<3I{len(fds)}i", 12 + 4 * len(fds), flags, len(fds), *fds)
    return refusal(user.call, device, RESET, data)


def test_hot_reset_through_a_group() -> None:
    def use() -> None:
        user = VfioUser()
        container, group, device = user.open_through_group(8, "0000:02:00.0")
        assert hot_reset_info(user, device) == (0, 2, [(8, 2, 0), (8, 2, 1)])
        assert refusal(hot_reset_info, user, device, 11) == EINVAL
        for too_short in (12, 16, 27):
            assert refusal(hot_reset_info, user, device, too_short) == ENOSPC
        assert hot_reset(user, device) == EINVAL
        assert hot_reset(user, device, group) == 0
        assert hot_reset(user, device, group, group) == 0
        assert hot_reset(user, device, group, group, group) == EINVAL  # more than there are functions
        assert hot_reset(user, device, 99) == EBADF
        assert hot_reset(user, device, container) == EINVAL
        assert hot_reset(user, device, device) == EINVAL
        assert hot_reset(user, device, group, flags=1) == EINVAL
        other = user.open("/dev/vfio/9")
        assert hot_reset(user, device, other) == EINVAL  # not the group of the functions that are hit

    booted(BRIDGES).run(use)


def test_a_hot_reset_reaches_the_device_and_keeps_what_the_kernel_keeps() -> None:
    def use() -> None:
        user = VfioUser()
        _container, group, device = user.open_through_group(9, "0000:03:00.0")
        user.pwrite(device, struct.pack("<I", 5), 4)  # liveness: reads back inverted
        assert user.pread(device, 4, 4) == struct.pack("<I", 5 ^ 0xFFFFFFFF)
        bar = function("0000:03:00.0").bars[0].addr
        assert hot_reset(user, device, group) == 0
        assert user.pread(device, 4, 4) == bytes(4)
        assert function("0000:03:00.0").config.read(0x10, 4) == bar

    booted(BRIDGES).run(use)


def test_a_hot_reset_needs_every_function_to_be_bound() -> None:
    def use() -> None:
        kernfs_write(node("/sys/bus/pci/drivers/vfio-pci/unbind"), b"0000:04:02.0")
        user = VfioUser()
        _container, group, device = user.open_through_group(5, "0000:04:01.0")
        assert hot_reset_info(user, device)[1] == 2
        assert hot_reset(user, device, group) == EINVAL

    booted(BRIDGES).run(use)


def test_hot_reset_through_an_iommufd() -> None:
    def use() -> None:
        user = VfioUser()
        iommufd = user.open("/dev/iommu")
        first, second = (
            user.open("/dev/vfio/devices/" + name)
            for name in sorted(
                next(iter(node(f"/sys/devices/pci0000:00/0000:00:05.0/{bdf}/vfio-dev").children))
                for bdf in ("0000:02:00.0", "0000:02:00.1")
            )
        )

        def bind(device: int) -> int:
            data = struct.pack("<2IiI", 16, 0, iommufd, 0)
            return int(struct.unpack("<2IiI", user.call(device, uapi.VFIO_DEVICE_BIND_IOMMUFD, data))[3])

        one = bind(first)
        # The other is in a group that is ours already.
        assert hot_reset_info(user, first) == (3, 2, [(one, 2, 0), (uapi.VFIO_PCI_DEVID_OWNED, 2, 1)])
        two = bind(second)
        assert hot_reset_info(user, first) == (3, 2, [(one, 2, 0), (two, 2, 1)])
        assert hot_reset(user, first, iommufd) == EINVAL  # a cdev shows no files
        assert hot_reset(user, first) == 0
        kernfs_write(node("/sys/devices/pci0000:00/0000:00:05.0/0000:02:00.1/driver_override"), b"none")
        user.close(second)
        kernfs_write(node("/sys/bus/pci/drivers/vfio-pci/unbind"), b"0000:02:00.1")
        assert hot_reset_info(user, first)[::2] == (1, [(one, 2, 0), (uapi.VFIO_PCI_DEVID_NOT_OWNED, 2, 1)])
        assert hot_reset(user, first) == EINVAL

    booted(BRIDGES).run(use)


def test_the_root_bus_cannot_be_reset() -> None:
    def use() -> None:
        user = VfioUser()
        _container, group, device = user.open_through_group(1, "0000:00:01.0")
        assert refusal(hot_reset_info, user, device) == ENODEV
        assert hot_reset(user, device, group) == ENODEV

    booted(BRIDGES).run(use)
