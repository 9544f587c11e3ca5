# SPDX-License-Identifier: GPL-2.0-only
"""Devices and drivers through the files of sysfs, with Linux's answers."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EEXIST, EINVAL, EIO, ENODEV, ENXIO
from typing import Any

import pytest
from bare_machine import BareMachine

from uvfio.devices.edu import Edu
from uvfio.devices.pci_testdev import PciTestdev
from uvfio.linux.base import core, pci
from uvfio.linux.base.devtmpfs import devtmpfs
from uvfio.linux.base.moduleparam import module_param_bool, module_param_uint
from uvfio.linux.base.private import BUS_NOTIFY_ADD_DEVICE, BUS_NOTIFY_REMOVED_DEVICE
from uvfio.linux.kernel.chrdev import Cdev, cdev_device_add, cdev_device_del, chrdev_open, misc_register
from uvfio.linux.kernel.fs import File, FileOperations, fput_sync
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_link_target, kernfs_read, kernfs_write
from uvfio.linux.kernel.wait import Completion
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import is_freed, kzalloc
from uvfio.runtime.task import current

PCI = "/sys/bus/pci/"
EDU = "/sys/devices/pci0000:00/0000:00:01.0/"


class RecordingDriver(pci.PciDriver):
    """Remembers what happened; *fails* is the errno of its probe."""

    def __init__(self, name: str, *ids: pci.PciDeviceId) -> None:
        super().__init__()
        self.name = name
        self.id_table = ids
        self.events: list[str] = []
        self.fails = 0
        self.leave: Completion | None = None

    def probe(self, dev: Any) -> None:
        self.events.append(f"probe {dev.name}")
        if self.fails:
            raise Errno(self.fails)

    def remove(self, dev: Any) -> None:
        if self.leave is not None:
            self.leave.wait_for_completion()
        self.events.append(f"remove {dev.name}")


def in_kernel(body: Callable[[], None]) -> None:
    """Run *body* in a machine with edu at 01.0 and pci-testdev at 02.0."""

    def run() -> None:
        pci.pci_init()
        pci.pci_add_devices([(Edu(), "0000:00:01.0"), (PciTestdev(), "0000:00:02.0")])
        body()

    BareMachine().run(run)


def read(path: str) -> str:
    node = kernfs_find(path)
    assert node is not None, path
    return kernfs_read(node).decode()


def write(path: str, text: str) -> int:
    """The errno of the write, 0 if it was taken."""
    node = kernfs_find(path)
    assert node is not None, path
    try:
        kernfs_write(node, text.encode())
    except Errno as e:
        return e.number
    return 0


def link(path: str) -> str | None:
    node = kernfs_find(path)
    return kernfs_link_target(node) if node is not None else None


def test_bind_and_unbind_answer_as_linux_does() -> None:
    def body() -> None:
        vfio = RecordingDriver("vfio-pci", pci.PciDeviceId(override_only=True))
        pci.pci_register_driver(vfio)
        bind, unbind = PCI + "drivers/vfio-pci/bind", PCI + "drivers/vfio-pci/unbind"
        assert read(EDU + "driver_override") == "(null)\n"
        assert write(bind, "0000:00:01.0") == ENODEV
        assert write(PCI + "drivers_probe", "0000:77:00.0") == ENODEV
        assert write(PCI + "drivers_probe", "0000:00:01.0") == 0
        assert vfio.events == []
        assert write(EDU + "driver_override", "vfio-pci\n") == 0
        assert write(bind, "0000:00:01.0\n") == 0
        assert vfio.events == ["probe 0000:00:01.0"]
        assert write(bind, "0000:00:01.0") == EBUSY
        assert write(bind, "0000:77:00.0") == ENODEV
        assert write(PCI + "drivers_probe", "0000:00:01.0") == 0
        assert link(EDU + "driver") == "../../../bus/pci/drivers/vfio-pci"
        assert link(PCI + "drivers/vfio-pci/0000:00:01.0") == "../../../../devices/pci0000:00/0000:00:01.0"
        assert read(EDU + "uevent").startswith("DRIVER=vfio-pci\n")
        assert kernfs_find(EDU + "waiting_for_supplier") is None
        assert write(unbind, "0000:00:02.0") == ENODEV
        assert write(unbind, "0000:00:01.0") == 0
        assert write(unbind, "0000:00:01.0") == ENODEV
        assert link(EDU + "driver") is None
        assert read(EDU + "waiting_for_supplier") == "0\n"

    in_kernel(body)


def test_driver_override_takes_a_page_less_one_byte() -> None:
    def body() -> None:
        override = EDU + "driver_override"
        assert write(override, "a" * 4096) == EINVAL
        assert write(override, "a" * 4094) == 0
        assert len(read(override)) == 4095
        assert write(override, "\n") == 0
        assert read(override) == "(null)\n"

    in_kernel(body)


def test_an_override_keeps_all_others_away() -> None:
    def body() -> None:
        native = RecordingDriver("native", pci.PciDeviceId(0x1234, 0x11E8))
        assert write(EDU + "driver_override", "other") == 0
        pci.pci_register_driver(native)
        assert write(PCI + "drivers_probe", "0000:00:01.0") == 0
        assert native.events == []
        assert write(EDU + "driver_override", "\n") == 0
        assert write(PCI + "drivers_probe", "0000:00:01.0") == 0
        assert native.events == ["probe 0000:00:01.0"]

    in_kernel(body)


def test_new_id_binds_at_once() -> None:
    def body() -> None:
        drv = RecordingDriver("vfio-pci", pci.PciDeviceId(override_only=True))
        pci.pci_register_driver(drv)
        new_id, remove_id = PCI + "drivers/vfio-pci/new_id", PCI + "drivers/vfio-pci/remove_id"
        assert write(new_id, "zz") == EINVAL
        assert write(new_id, "1234") == EINVAL
        assert write(new_id, "1b36 0005") == 0
        assert drv.events == ["probe 0000:00:02.0"]
        assert write(new_id, "1b36 0005") == EEXIST
        assert write(remove_id, "1b36 0005") == 0
        assert write(remove_id, "1b36 0005") == ENODEV
        assert write(remove_id, "1b36") == EINVAL

    in_kernel(body)


def test_a_refused_probe_is_answered_to_bind_but_not_to_drivers_probe() -> None:
    def body() -> None:
        drv = RecordingDriver("stubborn", pci.PciDeviceId(0x1234, 0x11E8))
        drv.fails = EIO
        pci.pci_register_driver(drv)
        assert write(PCI + "drivers/stubborn/bind", "0000:00:01.0") == EIO
        assert write(PCI + "drivers_probe", "0000:00:01.0") == 0
        assert link(EDU + "driver") is None
        drv.fails = ENXIO
        assert write(PCI + "drivers/stubborn/bind", "0000:00:01.0") == ENODEV

    in_kernel(body)


def test_dma_that_cannot_be_configured_stops_the_probe() -> None:
    def body() -> None:
        def refuse(dev: Any) -> None:
            raise Errno(EBUSY, "owned by a user")

        drv = RecordingDriver("native", pci.PciDeviceId(0x1234, 0x11E8))
        pci.pci_bus_type().dma_configure = refuse
        pci.pci_register_driver(drv)
        assert write(PCI + "drivers/native/bind", "0000:00:01.0") == EBUSY
        assert write(PCI + "drivers_probe", "0000:00:01.0") == EINVAL
        assert drv.events == []

    in_kernel(body)


def test_while_an_unbind_waits_the_device_already_looks_unbound() -> None:
    def body() -> None:
        drv = RecordingDriver("slow", pci.PciDeviceId(0x1234, 0x11E8))
        pci.pci_register_driver(drv)
        drv.leave = Completion("leave")
        runtime = current().runtime
        unbind = runtime.spawn(lambda: write(PCI + "drivers/slow/unbind", "0000:00:01.0"), "unbind")
        runtime.point("wait", unbind, ready=lambda: kernfs_find(EDU + "driver") is None)
        assert not unbind.done
        assert kernfs_find(EDU + "waiting_for_supplier") is None
        assert kernfs_find(EDU + "resource0") is not None
        drv.leave.complete()
        runtime.point("wait", unbind, ready=lambda: unbind.done)
        assert drv.events[-1] == "remove 0000:00:01.0"
        assert kernfs_find(EDU + "waiting_for_supplier") is not None

    in_kernel(body)


def test_the_iommu_core_hears_of_a_removal_after_the_driver_let_go() -> None:
    def body() -> None:
        drv = RecordingDriver("native", pci.PciDeviceId(0x1234, 0x11E8))
        pci.pci_register_driver(drv)
        names = {BUS_NOTIFY_ADD_DEVICE: "added", BUS_NOTIFY_REMOVED_DEVICE: "removed"}

        def notifier(event: int, dev: Any) -> None:
            if event in names:
                drv.events.append(f"{names[event]} {dev.name}")

        pci.pci_bus_type().notifiers.append(notifier)
        assert write(EDU + "remove", "1") == 0
        assert write(PCI + "rescan", "1") == 0
        name = "0000:00:01.0"
        assert drv.events == [f"probe {name}", f"remove {name}", f"removed {name}", f"added {name}", f"probe {name}"]

    in_kernel(body)


def test_remove_and_rescan() -> None:
    def body() -> None:
        old = pci.pci_host().found["0000:00:01.0"]
        assert write(EDU + "driver_override", "x") == 0
        assert write(EDU + "remove", "x") == EINVAL
        assert write(EDU + "remove", "0") == 0
        assert kernfs_find(EDU) is not None
        assert write(EDU + "remove", "1\n") == 0
        assert kernfs_find(EDU) is None
        assert kernfs_find(PCI + "devices/0000:00:01.0") is None
        assert is_freed(old)
        assert write(PCI + "rescan", "1") == 0
        assert read(EDU + "driver_override") == "(null)\n"
        assert read(EDU + "resource").startswith("0x00000000fea00000 0x00000000feafffff 0x0000000000040200\n")

    in_kernel(body)


def test_unplugged_hardware_is_not_found_again() -> None:
    def body() -> None:
        pci.pci_unplug("0000:00:01.0")
        assert write(PCI + "rescan", "1") == 0
        assert kernfs_find(EDU) is None
        pci.pci_add_device(Edu(), "0000:00:01.0")
        assert kernfs_find(EDU) is not None

    in_kernel(body)


def test_a_class_device_has_its_links_and_its_node() -> None:
    def body() -> None:
        parent = pci.pci_host().found["0000:00:01.0"]
        class_ = core.class_create("vfio-dev", lambda dev: (f"vfio/devices/{dev.name}", 0))
        dev = core.device_create(class_, parent, (252, 0), None, "vfio0")
        home = EDU + "vfio-dev/vfio0/"
        assert read(home + "dev") == "252:0\n"
        assert read(home + "uevent") == "MAJOR=252\nMINOR=0\nDEVNAME=vfio/devices/vfio0\n"
        assert link(home + "device") == "../../../0000:00:01.0"
        assert link(home + "subsystem") == "../../../../../class/vfio-dev"
        assert link("/sys/class/vfio-dev/vfio0") == "../../devices/pci0000:00/0000:00:01.0/vfio-dev/vfio0"
        assert link("/sys/dev/char/252:0") == "../../devices/pci0000:00/0000:00:01.0/vfio-dev/vfio0"
        assert devtmpfs().nodes["/dev/vfio/devices/vfio0"].mode == 0o600
        core.device_unregister(dev)
        assert kernfs_find(EDU + "vfio-dev") is None
        assert "/dev/vfio/devices/vfio0" not in devtmpfs().nodes
        assert is_freed(dev)

    in_kernel(body)


class Counting(FileOperations):
    name = "counting"

    def __init__(self) -> None:
        self.opened = self.released = 0
        self.refuse = 0

    def open(self, file: File) -> None:
        if self.refuse:
            raise Errno(self.refuse)
        self.opened += 1

    def release(self, file: File) -> None:
        self.released += 1


def test_an_open_file_keeps_its_device_in_memory() -> None:
    def body() -> None:
        ops = Counting()
        dev = kzalloc(core.Device, "1")
        dev.devt = (253, 0)
        dev.class_ = core.class_create("vfio", lambda dev: (f"vfio/{dev.name}", 0))
        cdev = Cdev(ops, obj="the group")
        cdev_device_add(cdev, dev)
        file = chrdev_open((253, 0), 0, "/dev/vfio/1")
        assert file.cdev.obj == "the group"
        cdev_device_del(cdev, dev)
        core.put_device(dev)
        with pytest.raises(Errno) as caught:
            chrdev_open((253, 0), 0, "/dev/vfio/1")
        assert caught.value.number == ENXIO
        assert not is_freed(dev)
        fput_sync(file)
        assert ops.released == 1
        assert is_freed(dev)

    in_kernel(body)


def test_a_refused_open_leaves_nothing_behind() -> None:
    def body() -> None:
        ops = Counting()
        ops.refuse = EBUSY
        dev = misc_register("vfio", 196, ops, 0o666)
        with pytest.raises(Errno) as caught:
            chrdev_open((10, 196), 0, "/dev/vfio/vfio")
        assert caught.value.number == EBUSY
        assert devtmpfs().nodes["/dev/vfio/vfio"].mode == 0o666
        assert read("/sys/devices/virtual/misc/vfio/uevent").endswith("DEVNAME=vfio/vfio\nDEVMODE=0666\n")
        assert dev.kref.refcount.value == 2  # the registration's and the cdev's

    in_kernel(body)


def test_uevent_takes_actions_only() -> None:
    uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"

    def body() -> None:
        for path in (EDU + "uevent", PCI + "uevent"):
            for text in ("add", "change\n", f"add {uuid}", f"add {uuid} A=b C=d1"):
                assert write(path, text) == 0
            for text in ("nothing", " add", "add ", "ADD", "bind 1", f"add {uuid} A", f"add  {uuid}", f"add {uuid} A="):
                assert write(path, text) == EINVAL

    in_kernel(body)


def test_unregistering_a_driver_unbinds_its_devices() -> None:
    def body() -> None:
        drv = RecordingDriver("native", pci.PciDeviceId(0x1234, 0x11E8), pci.PciDeviceId(0x1B36, 0x0005))
        drv.module = "native_mod"
        pci.pci_register_driver(drv)
        with pytest.raises(Errno) as caught:
            pci.pci_register_driver(RecordingDriver("native"))
        assert caught.value.number == EBUSY
        assert link(PCI + "drivers/native/module") == "../../../../module/native_mod"
        assert link("/sys/module/native_mod/drivers/pci:native") == "../../../bus/pci/drivers/native"
        pci.pci_unregister_driver(drv)
        assert [event.split()[0] for event in drv.events] == ["probe", "probe", "remove", "remove"]
        assert kernfs_find(PCI + "drivers/native") is None
        assert link("/sys/module/native_mod/drivers/pci:native") is None
        assert link(EDU + "driver") is None

    in_kernel(body)


def test_module_parameters_are_parsed_as_linux_does() -> None:
    def body() -> None:
        values: dict[str, int] = {"b": 0, "u": 7}
        module_param_bool("m", "b", lambda: bool(values["b"]), lambda value: values.update(b=value))
        module_param_uint("m", "u", lambda: values["u"], lambda value: values.update(u=value))
        module_param_uint("m", "fixed", lambda: 65535)
        home = "/sys/module/m/parameters/"
        for text, shown in (("Y\n", "Y\n"), ("0", "N\n"), ("on", "Y\n"), ("off\n", "N\n"), ("true", "Y\n")):
            assert write(home + "b", text) == 0
            assert read(home + "b") == shown
        assert write(home + "b", "x") == EINVAL
        for text, value in (("12\n", 12), ("0x10", 16), ("010", 8), ("+3", 3)):
            assert write(home + "u", text) == 0
            assert values["u"] == value
        assert [write(home + "u", text) for text in ("", "-1", "1 2", "0x100000000", "1_0")] == [0, *[EINVAL] * 4]
        assert read(home + "fixed") == "65535\n"
        assert write(home + "fixed", "1") == EIO

    in_kernel(body)
