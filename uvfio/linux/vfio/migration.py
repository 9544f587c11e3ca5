# SPDX-License-Identifier: GPL-2.0-only
"""
Migration and DMA logging. Mirrors these features in ``drivers/vfio/vfio_main.c``.

The core checks, and knows the state machine; the driver makes one step of it at a time.
Difference from Linux: a driver that answers PRECOPY_INFO asks :func:`vfio_check_precopy_ioctl`
for the checked struct, and the core copies nothing back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from errno import E2BIG, EINVAL, ENOTTY, EOVERFLOW
from types import MappingProxyType
from typing import Any

from uvfio.linux.kernel.fs import O_CLOEXEC, File, fd_install, fput, get_unused_fd_flags, put_unused_fd
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.vfio import main
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.errors import Errno
from uvfio.uapi import vfio as uapi
from uvfio.uapi.vfio import (
    VFIO_DEVICE_FEATURE_GET,
    VFIO_DEVICE_FEATURE_SET,
    VFIO_DEVICE_STATE_ERROR,
    VFIO_DEVICE_STATE_PRE_COPY,
    VFIO_DEVICE_STATE_PRE_COPY_P2P,
    VFIO_DEVICE_STATE_RESUMING,
    VFIO_DEVICE_STATE_RUNNING,
    VFIO_DEVICE_STATE_RUNNING_P2P,
    VFIO_DEVICE_STATE_STOP,
    VFIO_DEVICE_STATE_STOP_COPY,
    VFIO_MIGRATION_P2P,
    VFIO_MIGRATION_PRE_COPY,
    VFIO_MIGRATION_STOP_COPY,
)

PAGE_SIZE = 4096
U64_MAX = (1 << 64) - 1
LOG_MAX_RANGES = PAGE_SIZE // uapi.vfio_device_feature_dma_logging_range.size_of

STOP, RUNNING, STOP_COPY = VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_STOP_COPY
RESUMING, RUNNING_P2P = VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_RUNNING_P2P
PRE_COPY, PRE_COPY_P2P = VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY_P2P
ERROR = VFIO_DEVICE_STATE_ERROR

# The next single step from a state towards another, in the order of TARGETS; ERROR: there is none.
TARGETS = (STOP, RUNNING, PRE_COPY, PRE_COPY_P2P, STOP_COPY, RESUMING, RUNNING_P2P)
VFIO_FROM_FSM_TABLE: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {
        STOP: (STOP, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P, STOP_COPY, RESUMING, RUNNING_P2P),
        RUNNING: (RUNNING_P2P, RUNNING, PRE_COPY, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P, RUNNING_P2P),
        PRE_COPY: (RUNNING, RUNNING, PRE_COPY, PRE_COPY_P2P, PRE_COPY_P2P, RUNNING, RUNNING),
        PRE_COPY_P2P: (RUNNING_P2P, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P, STOP_COPY, RUNNING_P2P, RUNNING_P2P),
        STOP_COPY: (STOP, STOP, ERROR, ERROR, STOP_COPY, STOP, STOP),
        RESUMING: (STOP, STOP, STOP, STOP, STOP, RESUMING, STOP),
        RUNNING_P2P: (STOP, RUNNING, RUNNING, PRE_COPY_P2P, STOP, STOP, RUNNING_P2P),
    }
)
STATE_FLAGS: Mapping[int, int] = MappingProxyType(
    {
        STOP: VFIO_MIGRATION_STOP_COPY,
        RUNNING: VFIO_MIGRATION_STOP_COPY,
        STOP_COPY: VFIO_MIGRATION_STOP_COPY,
        RESUMING: VFIO_MIGRATION_STOP_COPY,
        RUNNING_P2P: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P,
        PRE_COPY: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
        PRE_COPY_P2P: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY,
    }
)


class VfioMigrationOps:
    """``struct vfio_migration_ops``."""

    def migration_set_state(self, device: VfioDevice, new_state: int) -> File | None:
        """Go there, by :func:`vfio_mig_get_next_state`; the file of a session that this begins."""
        raise NotImplementedError

    def migration_get_state(self, device: VfioDevice) -> int:
        raise NotImplementedError

    def migration_get_data_size(self, device: VfioDevice) -> int:
        raise NotImplementedError


class VfioLogOps:
    """``struct vfio_log_ops``."""

    def log_start(self, device: VfioDevice, ranges: Sequence[tuple[int, int]], page_size: int) -> int:
        """Log DMA to *ranges* (first, last); the page size used."""
        raise NotImplementedError

    def log_stop(self, device: VfioDevice) -> None:
        raise NotImplementedError

    def log_read_and_clear(self, device: VfioDevice, iova: int, length: int) -> list[int]:
        """The addresses of bytes that were written since the last call."""
        raise NotImplementedError


def vfio_mig_get_next_state(device: VfioDevice, cur: int, new: int) -> int:
    """The next step, over states that the device has. Errno EINVAL without a way."""
    if not _supported(device, cur) or not _supported(device, new):
        raise Errno(EINVAL)
    step = cur
    while True:
        step = VFIO_FROM_FSM_TABLE[step][TARGETS.index(new)]
        if step == ERROR:
            raise Errno(EINVAL, "there is no way from that state to this")
        if _supported(device, step):
            return step


def _supported(device: VfioDevice, state: int) -> bool:
    flags = STATE_FLAGS.get(state)
    return flags is not None and device.migration_flags & flags == flags


def vfio_ioctl_device_feature_migration(device: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    mig = uapi.vfio_device_feature_migration(flags=device.migration_flags)
    if device.mig_ops is None:
        raise Errno(ENOTTY)
    if main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_GET, mig.size_of):
        copy_to_user(arg, mig.pack())
    return 0


def vfio_ioctl_device_feature_mig_device_state(device: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    struct = uapi.vfio_device_feature_mig_state
    if device.mig_ops is None:
        raise Errno(ENOTTY)
    both = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET
    if not main.vfio_check_feature(flags, argsz, both, struct.size_of):
        return 0
    mig = struct.unpack(copy_from_user(arg, struct.size_of))
    mig.data_fd = -1
    if flags & VFIO_DEVICE_FEATURE_GET:
        mig.device_state = device.mig_ops.migration_get_state(device)
        copy_to_user(arg, mig.pack())
        return 0
    try:
        file = device.mig_ops.migration_set_state(device, mig.device_state)
    except Errno:
        copy_to_user(arg, mig.pack())
        raise
    if file is not None:
        return _return_mig_fd(file, mig, arg)
    copy_to_user(arg, mig.pack())
    return 0


def _return_mig_fd(file: File, mig: Any, arg: int) -> int:
    try:
        mig.data_fd = get_unused_fd_flags(O_CLOEXEC)
        try:
            copy_to_user(arg, mig.pack())
        except Errno:
            put_unused_fd(mig.data_fd)
            raise
    except Errno:
        fput(file)
        raise
    fd_install(mig.data_fd, file)
    return 0


def vfio_ioctl_device_feature_migration_data_size(device: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    struct = uapi.vfio_device_feature_mig_data_size
    if device.mig_ops is None:
        raise Errno(ENOTTY)
    if main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_GET, struct.size_of):
        size = device.mig_ops.migration_get_data_size(device)
        copy_to_user(arg, struct(stop_copy_length=size).pack())
    return 0


def vfio_ioctl_device_feature_precopy_info_v2(device: VfioDevice, flags: int, _arg: int, argsz: int) -> int:
    if not device.migration_flags & VFIO_MIGRATION_PRE_COPY:
        raise Errno(EINVAL)
    if main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, 0):
        device.precopy_info_v2 = True
    return 0


def vfio_check_precopy_ioctl(device: VfioDevice, cmd: int, arg: int) -> Any:
    """The checked struct of VFIO_MIG_GET_PRECOPY_INFO. Errno ENOTTY, EFAULT, EINVAL."""
    struct = uapi.vfio_precopy_info
    if cmd != uapi.VFIO_MIG_GET_PRECOPY_INFO:
        raise Errno(ENOTTY)
    info = struct.unpack(copy_from_user(arg, struct.size_of))
    if info.argsz < struct.size_of:
        raise Errno(EINVAL)
    if device.precopy_info_v2:
        info.flags = 0
    return info


def vfio_ioctl_device_feature_logging_start(device: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    struct = uapi.vfio_device_feature_dma_logging_control
    if device.log_ops is None:
        raise Errno(ENOTTY)
    if not main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, struct.size_of):
        return 0
    control = struct.unpack(copy_from_user(arg, struct.size_of))
    if not control.num_ranges:
        raise Errno(EINVAL)
    if control.num_ranges > LOG_MAX_RANGES:
        raise Errno(E2BIG)
    ranges = _log_ranges(control)
    control.page_size = device.log_ops.log_start(device, ranges, control.page_size)
    try:
        copy_to_user(arg, control.pack())
    except Errno:
        device.log_ops.log_stop(device)
        raise
    return 0


def _log_ranges(control: Any) -> list[tuple[int, int]]:
    each = uapi.vfio_device_feature_dma_logging_range
    ranges: list[tuple[int, int]] = []
    for n in range(control.num_ranges):
        asked = each.unpack(copy_from_user(control.ranges + n * each.size_of, each.size_of))
        if not asked.length or not control.page_size or (asked.iova | asked.length) % control.page_size:
            raise Errno(EINVAL)
        if asked.iova + asked.length > U64_MAX:
            raise Errno(EOVERFLOW)
        last = asked.iova + asked.length - 1
        if any(first <= last and asked.iova <= other for first, other in ranges):
            raise Errno(EINVAL)
        ranges.append((asked.iova, last))
    return ranges


def vfio_ioctl_device_feature_logging_stop(device: VfioDevice, flags: int, _arg: int, argsz: int) -> int:
    if device.log_ops is None:
        raise Errno(ENOTTY)
    if main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, 0):
        device.log_ops.log_stop(device)
    return 0


def vfio_ioctl_device_feature_logging_report(device: VfioDevice, flags: int, arg: int, argsz: int) -> int:
    struct = uapi.vfio_device_feature_dma_logging_report
    if device.log_ops is None:
        raise Errno(ENOTTY)
    if not main.vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_GET, struct.size_of):
        return 0
    report = struct.unpack(copy_from_user(arg, struct.size_of))
    if report.page_size < PAGE_SIZE or report.page_size & (report.page_size - 1):
        raise Errno(EINVAL)
    if report.iova + report.length > U64_MAX:
        raise Errno(EOVERFLOW)
    for address in device.log_ops.log_read_and_clear(device, report.iova, report.length):
        byte, bit = divmod((address - report.iova) // report.page_size, 8)
        at = report.bitmap + byte
        copy_to_user(at, bytes([copy_from_user(at, 1)[0] | 1 << bit]))
    return 0


Feature = Callable[[VfioDevice, int, int, int], int]
FEATURES: Mapping[int, Feature] = MappingProxyType(
    {
        uapi.VFIO_DEVICE_FEATURE_MIGRATION: vfio_ioctl_device_feature_migration,
        uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: vfio_ioctl_device_feature_mig_device_state,
        uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_START: vfio_ioctl_device_feature_logging_start,
        uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: vfio_ioctl_device_feature_logging_stop,
        uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: vfio_ioctl_device_feature_logging_report,
        uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: vfio_ioctl_device_feature_migration_data_size,
        uapi.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: vfio_ioctl_device_feature_precopy_info_v2,
    }
)


def vfio_feature(number: int) -> Feature | None:
    """Who answers for the feature *number*; None: the driver."""
    return FEATURES.get(number)
