# SPDX-License-Identifier: GPL-2.0-only
"""
Event queues: page faults for user space to resolve, and events of vIOMMUs.

Mirrors ``drivers/iommu/iommufd/eventq.c``; how a driver reports an event is in
``iommu/iommufd.py``. No difference from Linux is known; there, too, a read never waits.

A group of faults is in ``deliver`` until it is read as a whole, then in ``response`` until
it is answered. Whoever takes it from there answers and frees it.
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import EEXIST, EINVAL, EOPNOTSUPP, ESPIPE

from uvfio.linux.iommu.io_pgfault import (
    IOMMU_PAGE_RESP_INVALID,
    IopfFault,
    IopfGroup,
    iopf_free_group,
    iopf_group_response,
)
from uvfio.linux.iommu.iommufd import IommufdVevent, iommufd_viommu_find_veventq
from uvfio.linux.iommufd import objects
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_VIOMMU,
    IommufdAttachHandle,
    IommufdEventq,
    IommufdFault,
    IommufdHwPagetable,
    IommufdUcmd,
    IommufdVeventq,
    IommufdViommu,
)
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.kernel.fs import (
    O_CLOEXEC,
    File,
    FileOperations,
    anon_inode_getfile,
    fd_install,
    fput_sync,
    get_unused_fd_flags,
    put_unused_fd,
)
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.uapi.iommufd import (
    IOMMU_VEVENTQ_FLAG_LOST_EVENTS,
    IOMMU_VEVENTQ_TYPE_DEFAULT,
    IOMMUFD_PAGE_RESP_INVALID,
    IOMMUFD_PAGE_RESP_SUCCESS,
    iommu_hwpt_page_response,
    iommu_hwpt_pgfault,
    iommufd_vevent_header,
)

O_RDWR = 2
EPOLLIN, EPOLLOUT, EPOLLRDNORM = 0x1, 0x4, 0x40

FAULT_SIZE = iommu_hwpt_pgfault.size_of
RESPONSE_SIZE = iommu_hwpt_page_response.size_of
HEADER_SIZE = iommufd_vevent_header.size_of
VEVENTQ_MAX = 1 << 19


class IommufdEventqFops(FileOperations):
    """What the files of both kinds have in common."""

    positions = False
    polled = True

    def release(self, file: File) -> None:
        eventq: IommufdEventq = file.private_data
        eventq.users.dec()
        objects.iommufd_ctx_put(eventq.ictx)

    def poll(self, file: File) -> int:
        eventq: IommufdEventq = file.private_data
        with eventq.lock:
            return EPOLLIN | EPOLLRDNORM if eventq.deliver else 0


# Page faults


def iommufd_fault_iopf_handler(group: IopfGroup) -> None:
    """``domain.iopf_handler`` of a page table with a fault queue."""
    handle = group.attach_handle
    assert handle.domain is not None
    fault: IommufdFault = handle.domain.iommufd_hwpt.fault
    with fault.lock:
        fault.deliver.append(group)
        fault.wait_queue.wake_up()
    fault.filep.poll_changed()


def iommufd_auto_response_faults(hwpt: IommufdHwPagetable, handle: IommufdAttachHandle) -> None:
    """Nothing is attached with *handle* any more: what came in through it cannot be resolved now."""
    fault = hwpt.fault
    if fault is None:
        return
    with fault.mutex:
        with fault.lock:
            mine = [group for group in fault.deliver if group.attach_handle is handle]
            fault.deliver[:] = [group for group in fault.deliver if group.attach_handle is not handle]
        _drained(fault)
        for cookie, group in fault.response.items():
            if group.attach_handle is handle:
                fault.response.erase(cookie)
                mine.append(group)
        _refuse(mine)


def _refuse(groups: Iterable[IopfGroup]) -> None:
    for group in groups:
        iopf_group_response(group, IOMMU_PAGE_RESP_INVALID)
        iopf_free_group(group)


def iommufd_fault_destroy(fault: IommufdFault) -> None:
    """No page table and no file uses *fault* any more."""
    with fault.mutex:
        with fault.lock:
            groups, fault.deliver = fault.deliver, []
        _refuse([*groups, *(group for _cookie, group in fault.response.items())])
        fault.response.destroy()


class IommufdFaultFops(IommufdEventqFops):
    """``iommufd_fault_fops``."""

    name = "[iommufd-pgfault]"

    def read(self, file: File, buf: int, count: int, pos: int) -> int:
        """Whole groups only; Errno EINVAL when not even the first has room."""
        fault: IommufdFault = file.private_data
        if count % FAULT_SIZE:
            raise Errno(ESPIPE)
        done = 0
        with fault.mutex:
            while True:
                with fault.lock:
                    group: IopfGroup | None = fault.deliver.pop(0) if fault.deliver else None
                if group is None:
                    break
                try:
                    done += self._deliver(fault, group, buf + done, count - done)
                except Errno:
                    with fault.lock:
                        fault.deliver.insert(0, group)
                    if done:
                        break
                    raise
        _drained(fault)
        return done

    def _deliver(self, fault: IommufdFault, group: IopfGroup, buf: int, room: int) -> int:
        size: int = len(group.faults) * FAULT_SIZE
        if size > room:
            raise Errno(EINVAL)
        group.cookie = fault.response.alloc(group)
        handle = group.attach_handle
        assert isinstance(handle, IommufdAttachHandle)
        try:
            for at, iopf in enumerate(group.faults):
                copy_to_user(buf + at * FAULT_SIZE, compose_fault_message(iopf, handle.idev.id, group.cookie))
        except Errno:
            fault.response.erase(group.cookie)
            raise
        return size

    def write(self, file: File, buf: int, count: int, pos: int) -> int:
        """Answer groups by their cookies, up to the first answer that is none."""
        fault: IommufdFault = file.private_data
        if count % RESPONSE_SIZE:
            raise Errno(ESPIPE)
        done = 0
        with fault.mutex:
            while done < count:
                try:
                    self._respond(fault, buf + done)
                except Errno:
                    if done:
                        break
                    raise
                done += RESPONSE_SIZE
        return done

    def _respond(self, fault: IommufdFault, buf: int) -> None:
        response = iommu_hwpt_page_response.unpack(copy_from_user(buf, RESPONSE_SIZE))
        if response.code not in (IOMMUFD_PAGE_RESP_SUCCESS, IOMMUFD_PAGE_RESP_INVALID):
            raise Errno(EINVAL)
        group: IopfGroup | None = fault.response.erase(response.cookie)
        if group is None:
            raise Errno(EINVAL)
        iopf_group_response(group, response.code)
        iopf_free_group(group)

    def poll(self, file: File) -> int:
        return super().poll(file) | EPOLLOUT


def compose_fault_message(iopf: IopfFault, dev_id: int, cookie: int) -> bytes:
    """``iommufd_compose_fault_message()``."""
    message = iommu_hwpt_pgfault(
        flags=iopf.flags,
        dev_id=dev_id,
        pasid=iopf.pasid,
        grpid=iopf.grpid,
        perm=iopf.perm,
        addr=iopf.addr,
        cookie=cookie,
    )
    data: bytes = message.pack()
    return data


def iommufd_fault_alloc(ucmd: IommufdUcmd) -> None:
    if ucmd.cmd.flags:
        raise Errno(EOPNOTSUPP)
    fault = kzalloc(IommufdFault, ucmd.ictx)
    objects.iommufd_object_alloc(ucmd.ictx, fault)
    try:
        fd = _iommufd_eventq_init(fault, IommufdFaultFops())
        ucmd.cmd.out_fault_id = fault.id
        ucmd.cmd.out_fault_fd = fd
        _eventq_respond(ucmd, fault, fd)
    except Errno:
        objects.iommufd_object_abort_and_destroy(ucmd.ictx, fault)
        raise
    objects.iommufd_object_finalize(ucmd.ictx, fault)
    fd_install(fd, fault.filep)


# Events of vIOMMUs


class IommufdVeventqFops(IommufdEventqFops):
    """``iommufd_veventq_fops``."""

    name = "[iommufd-viommu-event]"

    def read(self, file: File, buf: int, count: int, pos: int) -> int:
        """Whole records only; Errno EINVAL when there is no room for a header, or for the first."""
        veventq: IommufdVeventq = file.private_data
        if count < HEADER_SIZE:
            raise Errno(EINVAL)
        done = 0
        while True:
            with veventq.lock:
                vevent: IommufdVevent | None = veventq.deliver.pop(0) if veventq.deliver else None
                # The lost one's number may move on while it is copied.
                sequence = vevent.sequence if vevent is not None else 0
            if vevent is None:
                break
            lost = vevent is veventq.lost_events_header
            try:
                done += self._deliver(vevent, sequence, lost, buf + done, count - done)
            except Errno:
                self._restore(veventq, vevent, lost)
                if done:
                    break
                raise
            if not lost:
                with veventq.lock:
                    veventq.num_events -= 1
        _drained(veventq)
        return done

    def _deliver(self, vevent: IommufdVevent, sequence: int, lost: bool, buf: int, room: int) -> int:
        size: int = HEADER_SIZE + len(vevent.data)
        if size > room:
            raise Errno(EINVAL)
        flags = IOMMU_VEVENTQ_FLAG_LOST_EVENTS if lost else 0
        copy_to_user(buf, iommufd_vevent_header(flags=flags, sequence=sequence).pack() + vevent.data)
        return size

    def _restore(self, veventq: IommufdVeventq, vevent: IommufdVevent, lost: bool) -> None:
        with veventq.lock:
            # Where later events are, those tell by their numbers what was lost.
            if not lost or not veventq.deliver:
                veventq.deliver.insert(0, vevent)


def iommufd_veventq_alloc(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.flags or cmd.__reserved or cmd.type == IOMMU_VEVENTQ_TYPE_DEFAULT:
        raise Errno(EOPNOTSUPP)
    if not 0 < cmd.veventq_depth <= VEVENTQ_MAX:
        raise Errno(EINVAL)
    viommu: IommufdViommu = objects.iommufd_get_object(ucmd.ictx, cmd.viommu_id, IOMMUFD_OBJ_VIOMMU)
    try:
        with viommu.veventqs_rwsem.write():
            _iommufd_veventq_alloc(ucmd, viommu)
    finally:
        objects.iommufd_put_object(ucmd.ictx, viommu)


def _iommufd_veventq_alloc(ucmd: IommufdUcmd, viommu: IommufdViommu) -> None:
    cmd = ucmd.cmd
    if iommufd_viommu_find_veventq(viommu, cmd.type) is not None:
        raise Errno(EEXIST)
    veventq = kzalloc(IommufdVeventq, viommu, cmd.type, cmd.veventq_depth)
    objects.iommufd_object_alloc(ucmd.ictx, veventq)
    viommu.users.inc()
    viommu.veventqs.append(veventq)
    try:
        fd = _iommufd_eventq_init(veventq, IommufdVeventqFops())
        cmd.out_veventq_id = veventq.id
        cmd.out_veventq_fd = fd
        _eventq_respond(ucmd, veventq, fd)
    except Errno:
        objects.iommufd_object_abort_and_destroy(ucmd.ictx, veventq)
        raise
    objects.iommufd_object_finalize(ucmd.ictx, veventq)
    fd_install(fd, veventq.filep)


def iommufd_veventq_abort(veventq: IommufdVeventq) -> None:
    """Take *veventq* from its vIOMMU, whose list the caller has locked."""
    viommu = veventq.viommu
    lockdep_assert_held(viommu.veventqs_rwsem)
    veventq.deliver.clear()
    viommu.veventqs.remove(veventq)
    viommu.users.dec()


def iommufd_veventq_destroy(veventq: IommufdVeventq) -> None:
    with veventq.viommu.veventqs_rwsem.write():
        iommufd_veventq_abort(veventq)


# Files


def _drained(eventq: IommufdEventq) -> None:
    """Somebody has taken from *eventq*. Who waits in poll is not woken for that: only the last one matters."""
    if not eventq.deliver:
        eventq.filep.poll_changed()


def _iommufd_eventq_init(eventq: IommufdEventq, fops: IommufdEventqFops) -> int:
    """Make the file, which holds the object and the context, and reserve an fd for it. Errno EMFILE."""
    eventq.filep = anon_inode_getfile(fops.name, fops, eventq, O_RDWR)
    eventq.users.inc()
    objects.iommufd_ctx_get(eventq.ictx)
    try:
        return get_unused_fd_flags(O_CLOEXEC)
    except Errno:
        # At once, for the object that its release works on is about to be freed.
        fput_sync(eventq.filep)
        raise


def _eventq_respond(ucmd: IommufdUcmd, eventq: IommufdEventq, fd: int) -> None:
    """Answer before user space can have the file and the object."""
    try:
        ucmd.respond()
    except Errno:
        put_unused_fd(fd)
        fput_sync(eventq.filep)
        raise
