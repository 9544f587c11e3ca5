# SPDX-License-Identifier: GPL-2.0-only
"""
Migration of mtty. Mirrors that part of ``samples/vfio-mdev/mtty.c``.

The data is a header and the state of each port. Both ends are files that user space
reads or writes in order; when the device leaves the state, they are disabled.
Difference from Linux: ``pread`` and ``pwrite`` are not refused, and go on in that order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from errno import EFAULT, EINVAL, ENODEV, ENOMEM
from typing import TYPE_CHECKING

from uvfio.linux.kernel.bug import WARN_ON
from uvfio.linux.kernel.fs import File, FileOperations, anon_inode_getfile, fput, get_file
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.vfio.migration import (
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    RUNNING_P2P,
    STOP,
    STOP_COPY,
    VfioLogOps,
    VfioMigrationOps,
    vfio_check_precopy_ioctl,
    vfio_mig_get_next_state,
)
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.errors import Errno

if TYPE_CHECKING:
    from uvfio.devices.mtty import MdevState

HEADER = struct.Struct("<QIIII")
MAGIC = 0x7E9D09898C3E2C4E
MAJOR_VER, MINOR_VER = 1, 0
PORT_SIZE = 36
O_RDONLY, O_WRONLY = 0, 1


class MigrationFile:
    """``struct mtty_migration_file``; *file* has a reference of the device's."""

    def __init__(self, state: MdevState) -> None:
        self.mdev_state = state
        self.lock = Mutex("mtty_migration_file.lock")
        self.file: File
        self.data = b""  # lock
        self.pos = 0  # lock
        self.disabled = False  # lock


class MigrationFops(FileOperations):
    """``mtty_save_fops`` and ``mtty_resume_fops``: which of the two, the mode of the file says."""

    name = "mtty_mig"

    def read(self, file: File, buf: int, count: int, pos: int) -> int:
        migf: MigrationFile = file.private_data
        with migf.lock:
            if migf.disabled:
                raise Errno(ENODEV)
            data = migf.data[migf.pos : migf.pos + count]
            copy_to_user(buf, data)
            migf.pos += len(data)
        return len(data)

    def write(self, file: File, buf: int, count: int, pos: int) -> int:
        migf: MigrationFile = file.private_data
        size = data_size(migf.mdev_state)
        with migf.lock:
            if migf.disabled:
                raise Errno(ENODEV)
            if len(migf.data) + count > size:
                raise Errno(ENOMEM)
            before = len(migf.data)
            migf.data += copy_from_user(buf, count)
            if before < HEADER.size <= len(migf.data) and migf.data[: HEADER.size] != header(migf.mdev_state):
                raise Errno(EFAULT, "this is no state of such a device")
        return count

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        migf: MigrationFile = file.private_data
        state = migf.mdev_state
        info = vfio_check_precopy_ioctl(state.vdev, cmd, arg)
        with state.state_mutex:
            if state.state not in (PRE_COPY, PRE_COPY_P2P):
                raise Errno(EINVAL)
            with migf.lock:
                if migf.disabled:
                    raise Errno(ENODEV)
                info.initial_bytes = max(0, HEADER.size - migf.pos)
                info.dirty_bytes = 0
        copy_to_user(arg, info.pack())
        return 0


MIGRATION_FOPS = MigrationFops()


def data_size(state: MdevState) -> int:
    return HEADER.size + len(state.ports) * PORT_SIZE


def header(state: MdevState) -> bytes:
    return HEADER.pack(MAGIC, MAJOR_VER, MINOR_VER, len(state.ports), 0)


def mtty_reset(state: MdevState) -> None:
    """The device runs again, whatever it was at."""
    with state.state_mutex:
        mtty_disable_files(state)
        state.state = RUNNING


def mtty_disable_files(state: MdevState) -> None:
    for migf in (state.saving_migf, state.resuming_migf):
        if migf is not None:
            with migf.lock:
                migf.disabled = True
                migf.data = b""
                migf.pos = 0
            fput(migf.file)
    state.saving_migf = state.resuming_migf = None


def _open(state: MdevState, flags: int) -> MigrationFile:
    migf = MigrationFile(state)
    migf.file = anon_inode_getfile("mtty_mig", MIGRATION_FOPS, migf, flags)
    return migf


def _step(state: MdevState, new: int) -> File | None:
    """From ``state.state`` to its neighbour *new*; the file of a session that this begins."""
    cur = state.state
    if new == STOP_COPY and state.saving_migf is not None:
        _save(state, state.saving_migf)
    elif new == STOP_COPY or (new in (PRE_COPY, PRE_COPY_P2P) and cur in (RUNNING, RUNNING_P2P)):
        migf = state.saving_migf = _open(state, O_RDONLY)
        migf.data = header(state)
        if new == STOP_COPY:
            _save(state, migf)
        return get_file(migf.file)
    elif new == RESUMING:
        state.resuming_migf = _open(state, O_WRONLY)
        return get_file(state.resuming_migf.file)
    elif cur in (PRE_COPY, PRE_COPY_P2P, STOP_COPY) and new in (RUNNING, RUNNING_P2P, STOP):
        mtty_disable_files(state)
    elif cur == RESUMING:
        _load(state)
        mtty_disable_files(state)
    return None


def _save(state: MdevState, migf: MigrationFile) -> None:
    with migf.lock:
        migf.data += b"".join(port.save() for port in state.ports)


def _load(state: MdevState) -> None:
    migf = state.resuming_migf
    assert migf is not None
    with migf.lock:
        if len(migf.data) < data_size(state):
            raise Errno(EINVAL, "the device was not given all of its state")
        for n, port in enumerate(state.ports):
            port.load(migf.data[HEADER.size + n * PORT_SIZE :][:PORT_SIZE])


class MttyMigrationOps(VfioMigrationOps):
    """``mtty_migration_ops``."""

    def migration_set_state(self, device: VfioDevice, new_state: int) -> File | None:
        state: MdevState = device.drvdata
        file: File | None = None
        with state.state_mutex:
            while state.state != new_state:
                step = vfio_mig_get_next_state(device, state.state, new_state)
                file = _step(state, step)
                state.state = step
                if WARN_ON(file is not None and step != new_state, "a session begins on the way"):
                    break
        return file

    def migration_get_state(self, device: VfioDevice) -> int:
        state: MdevState = device.drvdata
        with state.state_mutex:
            return state.state

    def migration_get_data_size(self, device: VfioDevice) -> int:
        return data_size(device.drvdata)


class MttyLogOps(VfioLogOps):
    """``mtty_log_ops``: a device that does no DMA."""

    def log_start(self, device: VfioDevice, ranges: Sequence[tuple[int, int]], page_size: int) -> int:
        return page_size

    def log_stop(self, device: VfioDevice) -> None:
        """Nothing was logged."""

    def log_read_and_clear(self, device: VfioDevice, iova: int, length: int) -> list[int]:
        return []
