# SPDX-License-Identifier: GPL-2.0-only
"""Mediated devices: parents, types, create and remove through sysfs, and what they show."""

from __future__ import annotations

import json
from collections.abc import Callable
from errno import EAGAIN, EEXIST, EINVAL, ENODEV, ENOMEM, ENOSPC, EUSERS
from typing import Any

import pytest
from vfio_user import VfioUser, booted, refusal, wait_until

from uvfio.cli.main import main
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_find, kernfs_link_target, kernfs_read, kernfs_write
from uvfio.linux.kernel.slab import fail_slab
from uvfio.linux.mdev.private import mdev
from uvfio.machine import Machine, Plugged, unplug
from uvfio.runtime.task import current

U = "83b8f4f2-509f-382f-3c1e-e6bfe0fa{:04}"
MTTY = "/sys/devices/virtual/mtty/mtty"
MDPY = "/sys/devices/virtual/mdpy/mdpy"


@pytest.fixture
def run() -> Callable[[Callable[[], Any]], Any]:
    return booted("edu", "mtty", "mdpy").run


def node(path: str) -> KernfsNode:
    found = kernfs_find(path)
    assert found is not None, path
    return found


def show(path: str) -> str:
    return kernfs_read(node(path)).decode()


def create(kind: str, uuid: str) -> int:
    parent = MTTY if kind.startswith("mtty") else MDPY
    return refusal(kernfs_write, node(f"{parent}/mdev_supported_types/{kind}/create"), uuid.encode())


def remove(path: str, data: bytes = b"1") -> int:
    return refusal(kernfs_write, node(f"{path}/remove"), data)


def available(parent: str, kind: str) -> int:
    return int(show(f"{parent}/mdev_supported_types/{kind}/available_instances"))


def test_what_a_parent_shows(run):
    def body():
        types = f"{MTTY}/mdev_supported_types"
        assert sorted(node(types).children) == ["mtty-1", "mtty-2"]
        assert sorted(node(f"{types}/mtty-1").children) == [
            "available_instances", "create", "device_api", "devices", "name",
        ]  # fmt: skip
        assert show(f"{types}/mtty-2/name") == "Dual port serial\n"
        assert show(f"{types}/mtty-2/device_api") == "vfio-pci\n"
        assert show(f"{MDPY}/mdev_supported_types/mdpy-hd/description") == "virtual display, 1920x1080 framebuffer\n"
        assert kernfs_link_target(node("/sys/class/mdev_bus/mtty")) == "../../devices/virtual/mtty/mtty"
        assert kernfs_link_target(node(f"{MTTY}/subsystem")) == "../../../../class/mtty"

    run(body)


def test_what_a_device_shows(run):
    def body():
        uuid = U.format(1)
        assert create("mtty-2", uuid) == 0
        device = f"{MTTY}/{uuid}"
        links = {name: kernfs_link_target(node(f"{device}/{name}")) for name in ("driver", "iommu_group", "mdev_type")}
        assert links == {
            "driver": "../../../../../bus/mdev/drivers/mtty",
            "iommu_group": "../../../../../kernel/iommu_groups/2",
            "mdev_type": "../mdev_supported_types/mtty-2",
        }
        assert show(f"{device}/uevent") == "DRIVER=mtty\n"
        assert show(f"{device}/vendor/sample_mdev_dev") == f"This is MDEV {uuid}\n"
        assert show(f"{device}/vfio-dev/vfio1/dev") == "252:1\n"
        assert kernfs_link_target(node(f"/sys/bus/mdev/devices/{uuid}")) == f"../../../devices/virtual/mtty/mtty/{uuid}"
        assert kernfs_link_target(node(f"{MTTY}/mdev_supported_types/mtty-2/devices/{uuid}")) == f"../../../{uuid}"
        group = "/sys/kernel/iommu_groups/2"
        assert [show(f"{group}/{name}") for name in ("name", "type", "reserved_regions")] == [
            "vfio-noiommu\n", "unknown\n", "",
        ]  # fmt: skip

    run(body)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (U.format(1), 0),
        (U.format(1).upper() + "\n", 0),
        (U.format(1) + "x", 0),
        (U.format(1)[:35], EINVAL),
        (U.format(1) + "\n\n", EINVAL),
        ("z" + U.format(1)[1:], EINVAL),
        (U.format(1).replace("-", "+"), EINVAL),
    ],
)
def test_what_create_takes(run, data, answer):
    assert run(lambda: create("mtty-1", data)) == answer
    assert run(lambda: [device.name for device in mdev().list]) == ([] if answer else [U.format(1)])


def test_a_uuid_is_there_once_whatever_the_parent(run):
    def body():
        assert create("mtty-1", U.format(1)) == 0
        assert [create(kind, U.format(1)) for kind in ("mtty-1", "mtty-2", "mdpy-vga")] == [EEXIST] * 3

    run(body)


def test_mtty_counts_ports_itself(run):
    def body():
        answers = [create("mtty-2", U.format(n)) for n in range(13)]
        assert answers == [0] * 12 + [ENOSPC]
        assert remove(f"{MTTY}/{U.format(3)}") == 0
        assert (available(MTTY, "mtty-1"), available(MTTY, "mtty-2")) == (2, 1)
        # Nothing is left of the one that was refused.
        assert create("mtty-1", U.format(12)) == 0

    run(body)


def test_the_core_counts_for_mdpy(run):
    def body():
        answers = [create(kind, U.format(n)) for n, kind in enumerate(["mdpy-vga", "mdpy-xga", "mdpy-hd"] * 2)]
        assert answers == [0] * 4 + [EUSERS] * 2
        assert remove(f"{MDPY}/{U.format(0)}") == 0
        assert available(MDPY, "mdpy-hd") == 1

    run(body)


def test_remove(run):
    def body():
        device = f"{MTTY}/{U.format(1)}"
        create("mtty-1", U.format(1))
        assert [remove(device, data) for data in (b"x", b"", b"0", b"0\n")] == [EINVAL, 0, 0, 0]
        file = node(f"{device}/remove")
        assert remove(device, b"2\n") == 0
        assert kernfs_find(device) is None
        assert refusal(kernfs_write, file, b"1") == ENODEV
        assert kernfs_find("/sys/kernel/iommu_groups/2") is None

    run(body)


def test_unbind_takes_the_device_from_user_space_only(run):
    def body():
        uuid = U.format(1)
        create("mtty-1", uuid)
        driver = "/sys/bus/mdev/drivers/mtty"
        kernfs_write(node(f"{driver}/unbind"), uuid.encode())
        assert sorted(node(f"{MTTY}/{uuid}").children) == ["mdev_type", "remove", "subsystem", "uevent"]
        assert refusal(kernfs_write, node(f"{driver}/bind"), uuid.encode()) == ENODEV
        assert available(MTTY, "mtty-1") == 24
        assert remove(f"{MTTY}/{uuid}") == 0

    run(body)


def test_remove_waits_for_the_last_file(run):
    def body():
        user = VfioUser()
        create("mtty-1", U.format(1))
        _iommufd, device = user.open_through_cdev(1)
        done: list[int] = []
        current().runtime.spawn(lambda: done.append(remove(f"{MTTY}/{U.format(1)}")), "remover")
        wait_until(lambda: kernfs_find(f"{MTTY}/{U.format(1)}/driver") is None)
        assert not done
        assert available(MTTY, "mtty-1") == 23
        # While one removes it, nobody else can.
        assert kernfs_find(f"{MTTY}/{U.format(1)}/remove") is None
        user.close(device)
        wait_until(lambda: done == [0])
        assert available(MTTY, "mtty-1") == 24

    run(body)


def test_unplugging_the_parent_removes_its_devices(run):
    def body():
        for n in range(3):
            create("mtty-1", U.format(n))
        create("mdpy-vga", U.format(3))
        unplug("mtty")
        assert kernfs_find("/sys/devices/virtual/mtty") is None or not node("/sys/devices/virtual/mtty").children
        assert kernfs_find("/sys/class/mdev_bus/mtty") is None
        assert kernfs_find("/sys/bus/mdev/drivers/mtty") is None
        assert [device.name for device in mdev().list] == [U.format(3)]

    run(body)


def test_a_parent_can_come_again():
    machine = booted("mtty")
    machine.unplug("mtty")
    assert machine.plug(Plugged("mtty")) == "mtty"
    with pytest.raises(ValueError, match="there must be one mtty only"):
        machine.plug(Plugged("mtty"))
    with pytest.raises(ValueError, match="it is no PCI function"):
        machine.plug(Plugged("mdpy", bdf="0000:00:05.0"))
    with pytest.raises(ValueError, match="must not be given ports"):
        machine.plug(Plugged("mdpy", options={"ports": 3}))


def test_two_machines_have_their_own():
    first, second = booted("mtty"), booted("mtty")
    assert first.run(lambda: create("mtty-1", U.format(1))) == 0
    assert second.run(lambda: create("mtty-1", U.format(1))) == 0


def test_today_a_lack_of_memory_costs_an_instance(run):
    def body():
        fail_slab().failing.add("MdevDevice")
        assert create("mdpy-vga", U.format(1)) == ENOMEM
        assert available(MDPY, "mdpy-vga") == 3

    run(body)


def test_today_who_removes_too_early_leaves_it_without_remove(run):
    def body():
        create("mtty-1", U.format(1))
        (device,) = mdev().list
        device.active = False  # as it is until create is done
        assert remove(f"{MTTY}/{U.format(1)}") == EAGAIN
        assert "remove" not in node(f"{MTTY}/{U.format(1)}").children

    run(body)


def test_a_machine_without_parents_has_an_empty_bus():
    machine = Machine()
    machine.boot()
    assert machine.run(lambda: list(node("/sys/bus/mdev/devices").children)) == []
    assert machine.run(lambda: list(node("/sys/class/mdev_bus").children)) == []


def test_the_command_line_knows_the_parents(capsys):
    assert main(["devices"]) == 0
    assert "mtty                mdev       A card of serial ports" in capsys.readouterr().out
    assert main(["devices", "show", "mtty"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  parent      /sys/class/mdev_bus/mtty",
        "  type        mtty-1 (Single port serial)",
        "  type        mtty-2 (Dual port serial)",
    ]
    assert main(["devices", "show", "mdpy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["types"] == {"vga": "mdpy-vga", "xga": "mdpy-xga", "hd": "mdpy-hd"}
