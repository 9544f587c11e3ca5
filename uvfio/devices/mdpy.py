# SPDX-License-Identifier: GPL-2.0-only
"""
mdpy: a display with a framebuffer in memory. Mirrors ``samples/vfio-mdev/mdpy.c``.

Difference from Linux: there is no ``/dev/mdpy``, and no parameter for the number of
devices.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from errno import EINVAL, ENOTTY
from types import MappingProxyType
from typing import Any

from uvfio.devices.mdev import MdevModel, read_pieces, write_pieces
from uvfio.linux.base.private import AnyAttribute
from uvfio.linux.kernel.fs import File, Vma
from uvfio.linux.kernel.kernfs import Attribute
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.mdev.private import MdevDevice, MdevDriver, MdevType
from uvfio.linux.vfio import main
from uvfio.linux.vfio.iommufd import VfioIommufdEmulatedOps
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.uapi import vfio as uapi

MAX_DEVICES = 4
CONFIG_SPACE_SIZE = 0xFF
MEMORY_BAR_OFFSET = 4096
DISPLAY_REGION = 16
DRM_FORMAT_XRGB8888 = b"XR24"
BAR0 = 0x10
BAR_MEM_PREFETCH = 8
CONFIG: Mapping[int, bytes] = MappingProxyType(
    {
        0x00: b"\x36\x1b\x0f\x00",
        0x04: b"\x03\x00\x10\x00",
        0x08: b"\x01\x00\x80\x03",
        BAR0: b"\x08\x00\x00\x00",
        0x2C: b"\xf4\x1a\x00\x11",
        0x34: b"\x40",
        0x40: b"\x09\x00\x10\x00" + DRM_FORMAT_XRGB8888,
    }
)
INFO_MIN_SIZE = uapi.vfio_device_info.offsetof("cap_offset")
PLANE_MIN_SIZE = uapi.vfio_device_gfx_plane_info.offsetof("reserved")


class MdpyType(MdevType):
    """``struct mdpy_type``."""

    def __init__(self, name: str, width: int, height: int) -> None:
        super().__init__(name, f"mdpy-{name}")
        self.width = width
        self.height = height

    @property
    def stride(self) -> int:
        return self.width * 4


@kstruct()
class MdpyState:
    """``struct mdev_state``: one display. A client that maps *memory* shares it."""

    def __init__(self, mtype: MdpyType) -> None:
        self.vdev: VfioDevice
        self.type = mtype
        self.memsize = 1 << (mtype.stride * mtype.height - 1).bit_length()
        self.memory: memoryview = memoryview(bytearray(self.memsize))
        self.ops_lock = Mutex("mdpy.ops_lock")
        self.vconfig = bytearray(CONFIG_SPACE_SIZE + 1)  # ops_lock
        for at, data in CONFIG.items():
            self.vconfig[at : at + len(data)] = data
        self.vconfig[0x48:0x50] = struct.pack("<II", mtype.width, mtype.height)


class MdpyOps(VfioIommufdEmulatedOps):
    """``mdpy_dev_ops``."""

    name = "vfio-mdpy"

    def release(self, device: VfioDevice) -> None:
        kfree(device.drvdata)

    def read(self, device: VfioDevice, buf: int, count: int, pos: int) -> int:
        return read_pieces(buf, count, pos, lambda at, size: _read(device.drvdata, at, size))

    def write(self, device: VfioDevice, buf: int, count: int, pos: int) -> int:
        return write_pieces(buf, count, pos, lambda at, data: _write(device.drvdata, at, data))

    def mmap(self, device: VfioDevice, vma: Vma, file: File) -> None:
        state: MdpyState = device.drvdata
        if vma.offset != MEMORY_BAR_OFFSET or vma.length > state.memsize or not vma.shared:
            raise Errno(EINVAL)

    def ioctl(self, device: VfioDevice, cmd: int, arg: int) -> int:
        state: MdpyState = device.drvdata
        if cmd == uapi.VFIO_DEVICE_GET_INFO:
            return _get_info(arg)
        if cmd == uapi.VFIO_DEVICE_GET_IRQ_INFO:
            return _get_irq_info(arg)
        if cmd == uapi.VFIO_DEVICE_SET_IRQS:
            raise Errno(EINVAL)
        if cmd == uapi.VFIO_DEVICE_QUERY_GFX_PLANE:
            return _query_gfx_plane(state, arg)
        if cmd == uapi.VFIO_DEVICE_RESET:
            state.memory[:] = bytes(state.memsize)
            return 0
        raise Errno(ENOTTY)

    def get_region_info_caps(self, device: VfioDevice, info: Any) -> list[tuple[int, int, bytes]]:
        if info.index >= uapi.VFIO_PCI_NUM_REGIONS:
            raise Errno(EINVAL)
        state: MdpyState = device.drvdata
        info.size = info.offset = info.flags = 0
        readwrite = uapi.VFIO_REGION_INFO_FLAG_READ | uapi.VFIO_REGION_INFO_FLAG_WRITE
        if info.index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
            info.size, info.flags = CONFIG_SPACE_SIZE, readwrite
        elif info.index == 0:
            info.size, info.offset = state.memsize, MEMORY_BAR_OFFSET
            info.flags = readwrite | uapi.VFIO_REGION_INFO_FLAG_MMAP
        return []


MDPY_OPS = MdpyOps()


class MdpyDriver(MdevDriver):
    """``mdpy_driver``."""

    name = module = "mdpy"
    device_api = "vfio-pci"
    max_instances = MAX_DEVICES
    describes = True

    def show_description(self, mtype: MdevType) -> str:
        assert isinstance(mtype, MdpyType)
        return f"virtual display, {mtype.width}x{mtype.height} framebuffer\n"

    def dev_groups(self, dev: Any) -> Mapping[str, Sequence[AnyAttribute]]:
        text = f"{dev.type.width}x{dev.type.height}\n"
        return {"vendor": [Attribute("resolution", 0o444, lambda: text)]}

    def probe(self, dev: MdevDevice) -> None:
        assert isinstance(dev.type, MdpyType)
        state = kzalloc(MdpyState, dev.type)
        device = state.vdev = main.vfio_alloc_device(dev, MDPY_OPS, state)
        dev.driver_data = state
        main.vfio_assign_device_set(device, device)
        try:
            main.vfio_register_emulated_iommu_dev(device)
        except Errno:
            main.vfio_put_device(device)
            raise

    def remove(self, dev: MdevDevice) -> None:
        state: MdpyState = dev.driver_data
        main.vfio_unregister_group_dev(state.vdev)
        main.vfio_put_device(state.vdev)


class Mdpy(MdevModel):
    """Displays with a framebuffer in memory."""

    name = "mdpy"

    def make_driver(self) -> MdevDriver:
        return MdpyDriver()

    def make_types(self) -> list[MdevType]:
        return [MdpyType("vga", 640, 480), MdpyType("xga", 1024, 768), MdpyType("hd", 1920, 1080)]


def _get_info(arg: int) -> int:
    info = uapi.vfio_device_info.unpack(copy_from_user(arg, INFO_MIN_SIZE))
    if info.argsz < INFO_MIN_SIZE:
        raise Errno(EINVAL)
    info.flags = uapi.VFIO_DEVICE_FLAGS_PCI
    info.num_regions = uapi.VFIO_PCI_NUM_REGIONS
    info.num_irqs = uapi.VFIO_PCI_NUM_IRQS
    copy_to_user(arg, info.pack()[:INFO_MIN_SIZE])
    return 0


def _get_irq_info(arg: int) -> int:
    info = uapi.vfio_irq_info.unpack(copy_from_user(arg, uapi.vfio_irq_info.size_of))
    if info.argsz < uapi.vfio_irq_info.size_of or info.index >= uapi.VFIO_PCI_NUM_IRQS:
        raise Errno(EINVAL)
    info.flags = info.count = 0
    copy_to_user(arg, info.pack())
    return 0


def _query_gfx_plane(state: MdpyState, arg: int) -> int:
    plane = uapi.vfio_device_gfx_plane_info.unpack(copy_from_user(arg, PLANE_MIN_SIZE))
    if plane.argsz < PLANE_MIN_SIZE:
        raise Errno(EINVAL)
    if plane.flags == uapi.VFIO_GFX_PLANE_TYPE_PROBE | uapi.VFIO_GFX_PLANE_TYPE_REGION:
        return 0
    if plane.flags != uapi.VFIO_GFX_PLANE_TYPE_REGION:
        raise Errno(EINVAL)
    plane.drm_format = int.from_bytes(DRM_FORMAT_XRGB8888, "little")
    plane.width, plane.height = state.type.width, state.type.height
    plane.stride, plane.size = state.type.stride, state.memsize
    plane.x_pos = plane.y_pos = 0
    plane.region_index = DISPLAY_REGION
    copy_to_user(arg, plane.pack()[:PLANE_MIN_SIZE])
    return 0


def _read(state: MdpyState, pos: int, size: int) -> bytes | None:
    with state.ops_lock:
        if pos < CONFIG_SPACE_SIZE:
            return bytes(state.vconfig[pos : pos + size])
        at = pos - MEMORY_BAR_OFFSET
        return bytes(state.memory[at : at + size]) if 0 <= at <= state.memsize - size else None


def _write(state: MdpyState, pos: int, data: bytes) -> bool:
    with state.ops_lock:
        if pos < CONFIG_SPACE_SIZE:
            _write_config(state, pos, data)
            return True
        at = pos - MEMORY_BAR_OFFSET
        if not 0 <= at <= state.memsize - len(data):
            return False
        state.memory[at : at + len(data)] = data
    return True


def _write_config(state: MdpyState, offset: int, data: bytes) -> None:
    if offset == BAR0:
        addr = int.from_bytes(data, "little")
        if addr == 0xFFFF_FFFF:
            addr = -state.memsize & 0xFFFF_FFFF
        state.vconfig[BAR0 : BAR0 + 4] = (addr | BAR_MEM_PREFETCH).to_bytes(4, "little")
