# SPDX-License-Identifier: GPL-2.0-only
"""
Scenarios of fault queues: page faults read and answered while what they are about goes.

The driver that reports them does what Linux asks of it: when another domain is attached, it
waits until all that came in for the old one is reported.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

from uvfio.linux.iommu import io_pgfault
from uvfio.linux.iommu.io_pgfault import (
    IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
    IOMMU_FAULT_PERM_READ,
    IopfFault,
    IopfQueue,
)
from uvfio.linux.iommu.private import IommuDomain
from uvfio.linux.kernel.fs import File
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.user_mm import UserMm
from uvfio.linux.kernel.wait import Completion
from uvfio.runtime.errors import Errno, Splat
from uvfio.scenarios.iommufd_user import PAGE, IommufdUser
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.iommufd import (
    IOMMU_FAULT_QUEUE_ALLOC,
    IOMMU_HWPT_FAULT_ID_VALID,
    IOMMUFD_PAGE_RESP_SUCCESS,
    iommu_hwpt_pgfault,
)

FAULT_SIZE = iommu_hwpt_pgfault.size_of


class _PageRequests:
    """The page requests of a device: what its driver does with them, and what becomes of them."""

    def __init__(self, dev: Any) -> None:
        self.dev = dev
        self.iopf_queue = IopfQueue("iopfq")
        self.reported = 0
        self.answers: list[int] = []  # of which group each was
        self.prq = Mutex("prq")  # the interrupt thread's turn
        ops = dev.iommu.iommu_dev.ops
        self.do_attach = ops.attach_dev
        setattr(ops, "attach_dev", self.attach_dev)
        setattr(ops, "page_response", self.page_response)
        # The machine's own driver has nothing to do: the device has page requests of this class only.
        setattr(ops, "iopf_for_domain_replace", lambda _dev, _new, _old: None)
        io_pgfault.iopf_queue_add_device(self.iopf_queue, dev)

    def report(self) -> None:
        """In the driver's interrupt thread: the device asks for a page."""
        self.reported += 1
        fault = IopfFault(IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE, 0, self.reported, IOMMU_FAULT_PERM_READ, PAGE)
        with self.prq:
            io_pgfault.iommu_report_device_fault(self.dev, fault)

    def attach_dev(self, domain: IommuDomain, dev: Any) -> None:
        """Attach, and drain the page requests of what was attached before."""
        self.do_attach(domain, dev)
        self.prq.lock()
        self.prq.unlock()

    def page_response(self, dev: Any, fault: Any, response: Any) -> None:
        self.answers.append(response.grpid)

    def disable(self) -> None:
        """What the driver does when the last domain that takes page faults goes."""
        if self.dev.iommu.fault_param is not None:
            io_pgfault.iopf_queue_remove_device(self.iopf_queue, self.dev)

    def check(self) -> None:
        """The device waits until each request is answered, and an answer too many is for another."""
        if sorted(self.answers) != list(range(1, self.reported + 1)):
            raise Splat("exactly-once", f"of {self.reported} page requests were answered {self.answers}")


class _FaultingUser(IommufdUser):
    """A process with a device that asks for pages, on a page table with a fault queue."""

    def __init__(self, scene: Scene, mm: UserMm | None = None) -> None:
        super().__init__(scene, mm=mm)
        self.ioas = self.ioas_alloc()
        self.device = self.bind()
        self.hwpt, self.queue = self.faulting_hwpt()
        self.requests = _PageRequests(self.device.dev)
        self.attach(self.device, self.hwpt)
        scene.afterwards(self.requests.disable)
        scene.afterwards(self.requests.check)

    def faulting_hwpt(self) -> tuple[int, int]:
        """A page table with a fault queue of its own: its id, and the fd of the queue."""
        _size, _flags, fault_id, fd = self.call(self.iommufd, IOMMU_FAULT_QUEUE_ALLOC, "4I", 16, 0, 0, 0)
        return self.hwpt_alloc(self.device.id, self.ioas, IOMMU_HWPT_FAULT_ID_VALID, fault_id), fd

    def read_at(self, address: int) -> int:
        """Read one fault to *address*; its size, or 0 if there is none."""
        file: File = self.files.get(self.queue)
        return self.enter(lambda: file.f_op.read(file, address, FAULT_SIZE, 0))

    def read_and_respond(self) -> str:
        at = self.mm.mmap(PAGE)
        if not self.read_at(at):
            return "nothing"
        cookie = iommu_hwpt_pgfault.unpack(self.mm.read(at, FAULT_SIZE)).cookie
        self.write(self.queue, struct.pack("<2I", cookie, IOMMUFD_PAGE_RESP_SUCCESS))
        return "answered"

    def detach_last(self) -> None:
        self.requests.disable()
        self.detach(self.device)


@scenario(("replaced", "answered"), ("replaced", "nothing"), ("replaced", "EINVAL"))
def replace_vs_read(scene: Scene) -> None:
    """What becomes of the page faults of a page table that a device leaves?"""
    user = _FaultingUser(scene)
    other, _fd = user.faulting_hwpt()
    user.requests.report()
    scene.task("A", lambda: user.replace(user.device, other), "replaced")
    scene.task("B", user.read_and_respond, "answered")


@scenario(("replaced", "reported"), expected="use-after-free")
def replace_vs_report(scene: Scene) -> None:
    """To which page table does a page fault go that comes while one takes the other's place?"""
    user = _FaultingUser(scene)
    other, _fd = user.faulting_hwpt()
    scene.task("A", lambda: user.replace(user.device, other), "replaced")
    scene.task("B", user.requests.report, "reported")


@scenario(("detached", "answered"), ("detached", "nothing"), ("detached", "EINVAL"))
def detach_vs_read(scene: Scene) -> None:
    """Who has the page faults of a device that will not ask any more?"""
    user = _FaultingUser(scene)
    user.requests.report()
    scene.task("A", user.detach_last, "detached")
    scene.task("B", user.read_and_respond, "answered")


@scenario(("closed", "reported"))
def close_vs_report(scene: Scene) -> None:
    """Is a page fault answered that comes while nobody listens any more?"""
    user = _FaultingUser(scene)
    scene.task("A", partial(user.close, user.queue), "closed")
    scene.task("B", user.requests.report, "reported")


@scenario(("closed", "closed"))
def close_vs_close(scene: Scene) -> None:
    """Which of its files takes an iommufd along, and what page fault is left unanswered?"""
    user = _FaultingUser(scene)
    user.requests.report()
    user.detach_last()
    user.unbind(user.device)
    scene.task("A", partial(user.close, user.queue), "closed")
    scene.task("B", partial(user.close, user.iommufd), "closed")


class _Userfaultfd(UserMm):
    """Memory with a page that is not there until somebody brings it."""

    def __init__(self) -> None:
        super().__init__()
        self.missing = -1
        self.brought = Completion("userfaultfd.brought")

    def write(self, addr: int, data: bytes) -> None:
        if addr == self.missing:
            self.brought.wait_for_completion()
        super().write(addr, data)


@scenario(("read", "brought"))
def report_vs_read_that_waits(scene: Scene) -> None:
    """Can user space, reading page faults, make the driver wait for as long as it likes?"""
    mm = _Userfaultfd()
    user = _FaultingUser(scene, mm)
    user.requests.report()
    mm.missing = mm.mmap(PAGE)

    def report_and_bring() -> None:
        # The page is brought by another program's page fault, which the same thread reports.
        user.requests.report()
        mm.brought.complete()

    scene.task("A", partial(user.read_at, mm.missing), "read")
    scene.task("B", report_and_bring, "brought")


@scenario(("read",))
def read_to_nowhere(scene: Scene) -> None:
    """Is a page fault read once and only once, if at first there is no room for it?"""
    user = _FaultingUser(scene)
    user.requests.report()

    def read_twice() -> str:
        try:
            user.read_at(0)
        except Errno:
            return "read" if user.read_and_respond() == "answered" else "lost"
        return "read to nowhere"

    scene.task("A", read_twice, "read")


@scenario(("EFAULT",))
def queue_that_nobody_is_told_of(scene: Scene) -> None:
    """Does a fault queue go whose number cannot be told, and does its file go first?"""
    user = IommufdUser(scene)
    arg = user.mm.mmap(PAGE)
    user.mm.write(arg, struct.pack("<4I", 16, 0, 0, 0))
    user.mm.regions[-1].writable = False
    scene.task("A", lambda: user.ioctl(user.iommufd, IOMMU_FAULT_QUEUE_ALLOC, arg), "told")
