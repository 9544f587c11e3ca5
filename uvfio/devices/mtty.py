# SPDX-License-Identifier: GPL-2.0-only
"""
mtty: a PCI card with one or two serial ports. Mirrors ``samples/vfio-mdev/mtty.c``.

Differences from Linux: there is no ``/dev/mtty``; bytes of the configuration space behind
its end read as zero, where Linux shows what lies there in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from errno import EINVAL, ENOSPC, ENOTTY
from types import MappingProxyType
from typing import Any

from uvfio.devices.mdev import MdevModel, read_pieces, write_pieces
from uvfio.devices.mtty_irqs import MttyIrqs
from uvfio.devices.mtty_migration import MigrationFile, MttyLogOps, MttyMigrationOps, mtty_disable_files, mtty_reset
from uvfio.devices.mtty_uart import SerialPort
from uvfio.linux.base.private import AnyAttribute
from uvfio.linux.kernel.kernfs import Attribute
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.refcount import Atomic
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.mdev.private import MdevDevice, MdevDriver, MdevType
from uvfio.linux.vfio import main
from uvfio.linux.vfio.iommufd import VfioIommufdEmulatedOps
from uvfio.linux.vfio.migration import RUNNING
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.uapi import vfio as uapi

MAX_MTTYS = 24
OFFSET_SHIFT = 40
CONFIG_SPACE_SIZE = 0xFF
IO_BAR_SIZE = 8
BAR0, BAR1, BAR5 = 0x10, 0x14, 5
PCI_INTERRUPT_LINE = 0x3C
CONFIG: Mapping[int, bytes] = MappingProxyType(
    {
        0x00: b"HCS2",
        0x04: b"\x01\x00\x00\x02",
        0x08: b"\x10\x02\x00\x07",
        BAR0: b"\x01\x00\x00\x00",
        0x2C: b"HCS2",
        0x3D: b"\x01",
        0x40: b"\x23\x00\x00\x80\x23\x00\x00\x00\x23\x00\x00\x00\x23\x00\x00\x00",
        0x60: b"PCI Serial/UART",
    }
)
INFO_MIN_SIZE = uapi.vfio_device_info.offsetof("cap_offset")


class MttyType(MdevType):
    """``struct mtty_type``."""

    def __init__(self, nr_ports: int, pretty_name: str) -> None:
        super().__init__(str(nr_ports), pretty_name)
        self.nr_ports = nr_ports


@kstruct()
class MdevState:
    """``struct mdev_state``: one card."""

    def __init__(self, driver: MttyDriver, mdev: MdevDevice, nr_ports: int) -> None:
        self.vdev: VfioDevice
        self.driver = driver
        self.mdev = mdev
        self.ops_lock = Mutex("mtty.ops_lock")
        self.irqs = MttyIrqs()  # ops_lock
        self.ports = [SerialPort(self.irqs.trigger) for _ in range(nr_ports)]  # ops_lock
        self.vconfig = bytearray(CONFIG_SPACE_SIZE + 1)  # ops_lock
        for at, data in CONFIG.items():
            self.vconfig[at : at + len(data)] = data
        if nr_ports == 2:
            self.vconfig[BAR1 : BAR1 + 4] = CONFIG[BAR0]
        self.num_irqs = 0  # none before the user has asked for the device's info
        self.state_mutex = Mutex("mtty.state_mutex")
        self.state = RUNNING  # state_mutex
        self.saving_migf: MigrationFile | None = None  # state_mutex
        self.resuming_migf: MigrationFile | None = None  # state_mutex


class MttyOps(VfioIommufdEmulatedOps):
    """``mtty_dev_ops``."""

    name = "vfio-mtty"

    def release(self, device: VfioDevice) -> None:
        state: MdevState = device.drvdata
        state.driver.avail_ports.add_return(len(state.ports))
        kfree(state)

    def close_device(self, device: VfioDevice) -> None:
        state: MdevState = device.drvdata
        with state.state_mutex:
            mtty_disable_files(state)
        with state.ops_lock:
            state.irqs.disable()

    def read(self, device: VfioDevice, buf: int, count: int, pos: int) -> int:
        return read_pieces(buf, count, pos, lambda at, size: _read(device.drvdata, at, size))

    def write(self, device: VfioDevice, buf: int, count: int, pos: int) -> int:
        return write_pieces(buf, count, pos, lambda at, data: _write(device.drvdata, at, data))

    def ioctl(self, device: VfioDevice, cmd: int, arg: int) -> int:
        state: MdevState = device.drvdata
        if cmd == uapi.VFIO_DEVICE_GET_INFO:
            return _get_info(state, arg)
        if cmd == uapi.VFIO_DEVICE_GET_IRQ_INFO:
            return _get_irq_info(state, arg)
        if cmd == uapi.VFIO_DEVICE_SET_IRQS:
            with state.ops_lock:
                return state.irqs.ioctl(arg, state.num_irqs)
        if cmd == uapi.VFIO_DEVICE_RESET:
            mtty_reset(state)
            return 0
        raise Errno(ENOTTY)

    def get_region_info_caps(self, device: VfioDevice, info: Any) -> list[tuple[int, int, bytes]]:
        if info.index >= uapi.VFIO_PCI_NUM_REGIONS:
            raise Errno(EINVAL)
        state: MdevState = device.drvdata
        info.size = IO_BAR_SIZE if info.index < len(state.ports) else 0
        if info.index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
            info.size = CONFIG_SPACE_SIZE
        info.offset = info.index << OFFSET_SHIFT
        info.flags = uapi.VFIO_REGION_INFO_FLAG_READ | uapi.VFIO_REGION_INFO_FLAG_WRITE
        return []


MTTY_OPS = MttyOps()
MTTY_MIGRATION_OPS = MttyMigrationOps()
MTTY_LOG_OPS = MttyLogOps()


class MttyDriver(MdevDriver):
    """``mtty_driver``."""

    name = module = "mtty"
    device_api = "vfio-pci"
    counts_itself = True

    def __init__(self) -> None:
        super().__init__()
        self.avail_ports = Atomic("mtty.mdev_avail_ports", MAX_MTTYS)

    def get_available(self, mtype: MdevType) -> int:
        assert isinstance(mtype, MttyType)
        return self.avail_ports.read() // mtype.nr_ports

    def dev_groups(self, dev: Any) -> Mapping[str, Sequence[AnyAttribute]]:
        text = f"This is MDEV {dev.name}\n"
        return {"vendor": [Attribute("sample_mdev_dev", 0o444, lambda: text)]}

    def probe(self, dev: MdevDevice) -> None:
        state = self._init_dev(dev)
        device = state.vdev
        device.migration_flags = uapi.VFIO_MIGRATION_STOP_COPY | uapi.VFIO_MIGRATION_P2P | uapi.VFIO_MIGRATION_PRE_COPY
        device.mig_ops = MTTY_MIGRATION_OPS
        device.log_ops = MTTY_LOG_OPS
        dev.driver_data = state
        main.vfio_assign_device_set(device, device)
        try:
            main.vfio_register_emulated_iommu_dev(device)
        except Errno:
            main.vfio_put_device(device)
            raise

    def remove(self, dev: MdevDevice) -> None:
        state: MdevState = dev.driver_data
        main.vfio_unregister_group_dev(state.vdev)
        main.vfio_put_device(state.vdev)

    def _init_dev(self, mdev: MdevDevice) -> MdevState:
        """Errno ENOSPC when there are not enough ports left."""
        mtype = mdev.type
        assert isinstance(mtype, MttyType)
        available = self.avail_ports.read()
        while True:
            if available < mtype.nr_ports:
                raise Errno(ENOSPC)
            was = self.avail_ports.cmpxchg(available, available - mtype.nr_ports)
            if was == available:
                break
            available = was
        state = kzalloc(MdevState, self, mdev, mtype.nr_ports)
        state.vdev = main.vfio_alloc_device(mdev, MTTY_OPS, state)
        return state


class Mtty(MdevModel):
    """A card of serial ports, to be divided into devices with one or two of them."""

    name = "mtty"

    def make_driver(self) -> MdevDriver:
        return MttyDriver()

    def make_types(self) -> list[MdevType]:
        return [MttyType(1, "Single port serial"), MttyType(2, "Dual port serial")]


def _get_info(state: MdevState, arg: int) -> int:
    info = uapi.vfio_device_info.unpack(copy_from_user(arg, INFO_MIN_SIZE))
    if info.argsz < INFO_MIN_SIZE:
        raise Errno(EINVAL)
    info.flags = uapi.VFIO_DEVICE_FLAGS_PCI
    info.num_regions = uapi.VFIO_PCI_NUM_REGIONS
    info.num_irqs = state.num_irqs = uapi.VFIO_PCI_NUM_IRQS
    copy_to_user(arg, info.pack()[:INFO_MIN_SIZE])
    return 0


def _get_irq_info(state: MdevState, arg: int) -> int:
    info = uapi.vfio_irq_info.unpack(copy_from_user(arg, uapi.vfio_irq_info.size_of))
    if info.argsz < uapi.vfio_irq_info.size_of or info.index >= state.num_irqs:
        raise Errno(EINVAL)
    info.flags = uapi.VFIO_IRQ_INFO_EVENTFD
    info.count = 1
    if info.index == uapi.VFIO_PCI_INTX_IRQ_INDEX:
        info.flags |= uapi.VFIO_IRQ_INFO_MASKABLE | uapi.VFIO_IRQ_INFO_AUTOMASKED
    elif info.index == uapi.VFIO_PCI_MSI_IRQ_INDEX:
        info.flags |= uapi.VFIO_IRQ_INFO_NORESIZE
    else:
        raise Errno(EINVAL)
    copy_to_user(arg, info.pack())
    return 0


def _read(state: MdevState, pos: int, size: int) -> bytes | None:
    index, offset = pos >> OFFSET_SHIFT, pos & (1 << OFFSET_SHIFT) - 1
    with state.ops_lock:
        if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
            return bytes(state.vconfig[offset : offset + size]).ljust(size, b"\0")
        if index > BAR5:
            return None
        value = state.ports[index].read(offset) if index < len(state.ports) else 0
        return value.to_bytes(size, "little")


def _write(state: MdevState, pos: int, data: bytes) -> bool:
    index, offset = pos >> OFFSET_SHIFT, pos & (1 << OFFSET_SHIFT) - 1
    with state.ops_lock:
        if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
            _write_config(state, offset, data)
        elif index > BAR5:
            return False
        elif index < len(state.ports):
            state.ports[index].write(offset, data[0])
    return True


def _write_config(state: MdevState, offset: int, data: bytes) -> None:
    if offset == PCI_INTERRUPT_LINE:
        state.vconfig[offset] = data[0]
    elif offset in (BAR0, BAR1) and state.vconfig[offset] & 3:
        addr = int.from_bytes(data, "little")
        if addr == 0xFFFF_FFFF:
            addr &= -IO_BAR_SIZE & 0xFFFF_FFFF
        addr |= state.vconfig[offset] & 3
        state.vconfig[offset : offset + 4] = addr.to_bytes(4, "little")
