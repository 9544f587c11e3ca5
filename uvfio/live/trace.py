# SPDX-License-Identifier: GPL-2.0-only
"""
``uvfio run --trace``: every call that was answered, decoded, as strace shows them.

A struct is shown as it is after the call: what the kernel wrote is what a reader
wants to see, and the input fields are still there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any

from uvfio.linux.iommufd.main import IommufdFileOperations
from uvfio.linux.kernel.fs import File
from uvfio.live.client import LiveThread
from uvfio.runtime.errors import Errno, errno_name
from uvfio.uapi import iommufd, iommufd_test, kvm, vfio

# Struct and field: the prefix of the constants it is made of.
FLAGS = {
    ("vfio_group_status", "flags"): "VFIO_GROUP_FLAGS_",
    ("vfio_device_info", "flags"): "VFIO_DEVICE_FLAGS_",
    ("vfio_region_info", "flags"): "VFIO_REGION_INFO_FLAG_",
    ("vfio_irq_info", "flags"): "VFIO_IRQ_INFO_",
    ("vfio_irq_set", "flags"): "VFIO_IRQ_SET_",
    ("vfio_device_feature", "flags"): "VFIO_DEVICE_FEATURE_",
    ("vfio_iommu_type1_info", "flags"): "VFIO_IOMMU_INFO_",
    ("vfio_iommu_type1_dma_map", "flags"): "VFIO_DMA_MAP_FLAG_",
    ("vfio_iommu_type1_dma_unmap", "flags"): "VFIO_DMA_UNMAP_FLAG_",
    ("vfio_iommu_type1_dirty_bitmap", "flags"): "VFIO_IOMMU_DIRTY_PAGES_FLAG_",
    ("iommu_ioas_map", "flags"): "IOMMU_IOAS_MAP_",
    ("iommu_ioas_map_file", "flags"): "IOMMU_IOAS_MAP_",
    ("iommu_ioas_copy", "flags"): "IOMMU_IOAS_MAP_",
    ("iommu_hwpt_alloc", "flags"): "IOMMU_HWPT_ALLOC_",
    ("iommu_hwpt_pgfault", "flags"): "IOMMU_PGFAULT_FLAGS_",
    ("iommu_hwpt_pgfault", "perm"): "IOMMU_PGFAULT_PERM_",
}
REGIONS = ("BAR0", "BAR1", "BAR2", "BAR3", "BAR4", "BAR5", "ROM", "CONFIG", "VGA")
IRQS = ("INTX", "MSI", "MSIX", "ERR", "REQ")
INDICES = {"vfio_region_info": REGIONS, "vfio_irq_info": IRQS, "vfio_irq_set": IRQS}
BY_VALUE = (vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_SET_IOMMU)
ACCESS = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_RDWR|O_WRONLY")
OPEN_FLAGS = ("O_CREAT", "O_TRUNC", "O_APPEND", "O_DIRECTORY", "O_CLOEXEC", "O_NONBLOCK", "O_PATH")
AT_FDCWD = 0xFFFFFF9C
WITH_DIRFD = ("openat", "openat2", "newfstatat", "statx", "readlinkat", "faccessat", "faccessat2")
PATH_SHOWN = 256
DATA_SHOWN = 16
RECORDS_SHOWN = 8
NUMBERS = ("pasid", "grpid", "virt_id")  # not ids of objects
RECORDS = {
    ("[iommufd-pgfault]", "read"): iommufd.iommu_hwpt_pgfault,
    ("[iommufd-pgfault]", "write"): iommufd.iommu_hwpt_page_response,
}


class Tracer:
    """Writes one line a call to *out*; with *as_json*, one JSON object."""

    def __init__(self, out: IO[str], as_json: bool = False) -> None:
        self.out = out
        self.as_json = as_json

    def call(self, thread: LiveThread, name: str, args: tuple[int, ...], file: File | None, result: int | None) -> None:
        """*result* is negative for an errno, None where the host's kernel went on with the call."""
        shown = list(_shown(thread, name, args, file, result))
        if self.as_json:
            record: dict[str, Any] = {"pid": thread.pid, "tid": thread.tid, "call": name, "args": dict(shown)}
            record["result"] = result if result is None or result >= 0 else -1
            record["errno"] = errno_name(-result) if result is not None and result < 0 else None
            line = json.dumps(record)
        else:
            line = f"[{thread.tid}] {name}({', '.join(value for _key, value in shown)}) = {_result(result)}"
        self.out.write(line + "\n")
        self.out.flush()  # whoever reads it wants the last call before a crash


def _shown(
    thread: LiveThread, name: str, args: tuple[int, ...], file: File | None, result: int | None
) -> Iterator[tuple[str, str]]:
    if file is None:
        yield from _path_call(thread, name, args)
        return
    fd = args[4 if name == "mmap" else 0] & 0xFFFFFFFF
    yield "fd", f"{fd}<{file.name}>"
    if name == "ioctl":
        yield from _ioctl(thread, args[1] & 0xFFFFFFFF, args[2], file)
    elif name in ("pread64", "pwrite64"):
        yield from _transfer(thread, args, name == "pread64", result)
    elif name in ("read", "write") and file.f_op.polled:
        yield from _records(thread, args, name, result, file)
    elif name == "mmap":
        yield "length", hex(args[1])
        yield "at", hex(args[5]) if isinstance(file.f_op, IommufdFileOperations) else _place(args[5])


def _path_call(thread: LiveThread, name: str, args: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    at = name in WITH_DIRFD
    if at:
        dirfd = args[0] & 0xFFFFFFFF
        yield "dirfd", "AT_FDCWD" if dirfd == AT_FDCWD else str(dirfd)
    try:
        path = os.fsdecode(thread.mm.read_string(args[at], PATH_SHOWN))
    except Errno:
        path = f"{args[at]:#x}"
    yield "path", json.dumps(path)
    if name in ("open", "openat"):
        yield "flags", _open_flags(args[1 + at])


def _open_flags(flags: int) -> str:
    return "|".join([ACCESS[flags & 3], *(name for name in OPEN_FLAGS if flags & getattr(os, name))])


def _transfer(thread: LiveThread, args: tuple[int, ...], read: bool, result: int | None) -> Iterator[tuple[str, str]]:
    n = min(result if read else args[2], DATA_SHOWN) if result is not None and result > 0 else 0
    try:
        data = thread.mm.read(args[1], n).hex(" ") if n else ""
    except Errno:
        data = f"{args[1]:#x}"
    more = "..." if result is not None and result > DATA_SHOWN else ""
    yield "data", f"[{data}{more}]"
    yield "count", str(args[2])
    yield "at", _place(args[3])


def _records(
    thread: LiveThread, args: tuple[int, ...], name: str, result: int | None, file: File
) -> Iterator[tuple[str, str]]:
    """What was read from an event file, or written there. Events are bytes: what they say depends on their type."""
    struct = RECORDS.get((file.name, name))
    if struct is None:
        data = thread.mm.read(args[1], result).hex(" ") if result is not None and result > 0 else ""
    else:
        n = args[2] if name == "write" else result or 0
        places = range(args[1], args[1] + min(max(n, 0), RECORDS_SHOWN * struct.size_of), struct.size_of)
        data = ", ".join(_struct(thread, at, struct, file) for at in places)
    yield "records", f"[{data}]"
    yield "count", str(args[2])


def _place(offset: int) -> str:
    """An offset of a device file: region and distance."""
    index, distance = offset >> 40 & 0xFF, offset & (1 << 40) - 1
    return f"{REGIONS[index] if index < len(REGIONS) else index}+{distance:#x}"


def _ioctl(thread: LiveThread, cmd: int, arg: int, file: File) -> Iterator[tuple[str, str]]:
    known = requests_of(file).get(cmd)
    if known is None:
        yield "request", f"{cmd:#x}"
        yield "arg", f"{arg:#x}"
        return
    name, struct = known
    yield "request", name
    if cmd in BY_VALUE:
        yield "arg", _extension(arg)
    elif cmd == vfio.VFIO_GROUP_GET_DEVICE_FD:
        yield "name", _string(thread, arg)
    elif cmd == vfio.VFIO_GROUP_SET_CONTAINER:
        yield "container", _bytes(thread, arg, 4)
    elif cmd == iommufd_test.IOMMU_TEST_CMD:
        yield from _test_cmd(thread, arg, file)
    elif struct is not None:
        yield "arg", _struct(thread, arg, struct, file)


def requests_of(file: File) -> Mapping[int, tuple[str, Any]]:
    """What a file of this kind knows; a container's calls also work on an iommufd."""
    kind = type(file.f_op).__name__
    if kind.startswith("VfioGroup"):
        return vfio.REQUESTS["group"]
    if kind.startswith("VfioDevice"):
        return vfio.REQUESTS["device"]
    if kind.startswith(("Kvm", "HostVm")):
        return kvm.REQUESTS
    if kind.startswith("Iommufd"):
        return {**vfio.REQUESTS["container"], **iommufd.REQUESTS["iommufd"], **iommufd_test.REQUESTS}
    return vfio.REQUESTS["container"]


def _struct(thread: LiveThread, arg: int, struct: Any, file: File) -> str:
    try:
        sized = struct.fields[0] in ("size", "argsz")
        size = int.from_bytes(thread.mm.read(arg, 4), "little") if sized else struct.size_of
        value = struct.unpack(thread.mm.read(arg, min(max(size, 4), struct.size_of)))
    except Errno:
        return f"{arg:#x}"
    return _fields(value, file)


def _fields(value: Any, file: File) -> str:
    name = type(value).__name__
    shown = [f"{field}={_field(name, field, getattr(value, field), file)}" for field in value.fields]
    return "{" + ", ".join(shown) + "}"


def _test_cmd(thread: LiveThread, arg: int, file: File) -> Iterator[tuple[str, str]]:
    """The selftest's call: which op, the object that it is about, and the op's part of the union."""
    struct = iommufd_test.iommu_test_cmd
    try:
        value = struct.unpack(thread.mm.read(arg, struct.offsetof("last")))
    except Errno:
        yield "arg", f"{arg:#x}"
        return
    name, member = iommufd_test.OPS.get(value.op, (str(value.op), None))
    yield "op", name
    yield "id", _object(value.id, file)
    if member is not None:
        yield "arg", _fields(member.unpack(value.u), file)


def _field(struct: str, field: str, value: int, file: File) -> str:
    if (struct, field) in FLAGS:
        return _flags(FLAGS[struct, field], value)
    if field == "index" and struct in INDICES and value < len(INDICES[struct]):
        return INDICES[struct][value]
    if field.endswith("_fd") or field in NUMBERS:
        return str(value)
    if field.endswith("id") and struct.startswith("iommu_"):
        return _object(value, file)
    return f"{value:#x}" if isinstance(value, int) and value > 255 else str(value)


def _object(number: int, file: File) -> str:
    """An iommufd object by its type, while it lives."""
    ictx = getattr(file.private_data, "ictx", file.private_data)  # of an event file, its object
    found = ictx.objects.entries.get(number) if ictx is not None else None
    kind = getattr(found, "type", None)
    return f"{number}<{getattr(kind, 'name', kind)}>" if kind is not None else str(number)


def _flags(prefix: str, value: int) -> str:
    constants = vars(iommufd if prefix.startswith("IOMMU_") else vfio)
    names, left = [], value
    for name, bit in constants.items():
        ours = name.startswith(prefix) and not name.endswith("_MASK") and isinstance(bit, int)
        if ours and bit and left & bit == bit:
            names.append(name.removeprefix(prefix))
            left &= ~bit
    if left or not names:
        names.append(f"{left:#x}" if left else "0")
    return "|".join(names)


def _extension(number: int) -> str:
    for name, value in vars(vfio).items():
        if value == number and name.endswith(("_IOMMU", "UNMAP_ALL", "UPDATE_VADDR")) and name.startswith("VFIO_"):
            return name
    return str(number)


def _string(thread: LiveThread, addr: int) -> str:
    try:
        return json.dumps(os.fsdecode(thread.mm.read_string(addr, PATH_SHOWN)))
    except Errno:
        return f"{addr:#x}"


def _bytes(thread: LiveThread, addr: int, n: int) -> str:
    try:
        return f"[{int.from_bytes(thread.mm.read(addr, n), 'little', signed=True)}]"
    except Errno:
        return f"{addr:#x}"


def _result(result: int | None) -> str:
    if result is None:
        return "?"
    if result >= 0:
        return str(result) if result < 4096 else f"{result:#x}"
    return f"-1 {errno_name(-result)} ({os.strerror(-result)})"
