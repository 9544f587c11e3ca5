# SPDX-License-Identifier: GPL-2.0-only
"""Virtual functions of the NVMe controller as secondary controllers, by NVMe 1.4, section 8.5."""

from __future__ import annotations

import struct

import pytest
from nvme_host import DATA, Host

from uvfio.devices.nvme_sriov import NvmePrimary, NvmeSecondary
from uvfio.uapi.pci_regs import PCI_SRIOV_CTRL, PCI_SRIOV_NUM_VF

IDENTIFY, VIRTUALIZATION_MANAGEMENT, SET_FEATURES, CREATE_CQ = 0x06, 0x1C, 0x09, 0x05
OFFLINE, ASSIGN, ONLINE = 7, 8, 9
QUEUES, VECTORS = 0, 1
CSTS = 0x1C


class Drive:
    """A primary controller with a host, whose virtual functions are enabled."""

    def __init__(self, vfs: int = 3, enabled: int = 2) -> None:
        self.primary = NvmePrimary(vfs=str(vfs), size="1M")
        self.host = Host(self.primary)
        self.enable(enabled)

    def enable(self, number: int) -> None:
        assert self.primary.sriov is not None
        at = self.primary.sriov.at
        if number:
            self.primary.config.write(at + PCI_SRIOV_NUM_VF, 2, number)
        self.primary.config.write(at + PCI_SRIOV_CTRL, 2, 9 if number else 0)

    def function(self, number: int) -> NvmeSecondary:
        assert self.primary.sriov is not None
        function = self.primary.sriov.functions[number - 1]
        assert isinstance(function, NvmeSecondary)
        return function

    def manage(self, action: int, cntlid: int, kind: int = 0, count: int = 0) -> tuple[int, int]:
        """Status and result of Virtualization Management."""
        done = self.host.admin(VIRTUALIZATION_MANAGEMENT, cdw10=cntlid << 16 | kind << 8 | action, cdw11=count)
        return done.status, done.result

    def bring_up(self, number: int, queues: int = 4, vectors: int = 3) -> Host:
        """Put the virtual function online; its host."""
        for kind, count in ((QUEUES, queues), (VECTORS, vectors)):
            assert self.manage(ASSIGN, number + 1, kind, count) == (0, count)
        assert self.manage(ONLINE, number + 1) == (0, 0)
        return Host(self.function(number))

    def list(self, first: int = 0) -> list[tuple[int, ...]]:
        """Secondary controllers: identifier, primary, online, virtual function, queues, vectors."""
        assert self.host.admin(IDENTIFY, cdw10=first << 16 | 0x15).status == 0
        count = self.host.memory[DATA]
        return [struct.unpack_from("<HHB3xHHH", self.host.memory, DATA + 32 * (n + 1)) for n in range(count)]


def test_all_are_offline_at_first_and_read_as_failed() -> None:
    drive = Drive()
    assert drive.list() == [(2, 1, 0, 1, 0, 0), (3, 1, 0, 2, 0, 0), (4, 1, 0, 3, 0, 0)]
    assert drive.list(3) == [(3, 1, 0, 2, 0, 0), (4, 1, 0, 3, 0, 0)]
    function = drive.function(1)
    assert [function.bar_read(0, off, 4) for off in (0, 8, 0x14, CSTS)] == [0, 0, 0, 2]
    function.bar_write(0, 0x14, 4, 1)
    assert function.bar_read(0, CSTS, 4) == 2


def test_an_online_controller_has_the_same_namespaces() -> None:
    drive = Drive()
    drive.host.create_queues()
    second = drive.bring_up(1)
    assert second.read(CSTS) == 1
    second.create_queues()
    second.memory[DATA : DATA + 512] = b"by the virtual function".ljust(512, b".")
    assert second.io(0x01, lba=7).status == 0
    assert drive.host.io(0x02, lba=7).status == 0
    assert drive.host.memory[DATA : DATA + 23] == b"by the virtual function"
    assert drive.list()[0] == (2, 1, 1, 1, 4, 3)


def test_it_says_that_it_is_one_of_several() -> None:
    drive = Drive()
    identities = []
    for host in (drive.host, drive.bring_up(1)):
        assert host.admin(IDENTIFY, cdw10=1).status == 0
        data = host.memory[DATA : DATA + 4096]
        identities.append((data[76], int.from_bytes(data[78:80], "little"), data[256] >> 7, bytes(data[4:24])))
        assert host.admin(IDENTIFY, nsid=1, cdw10=0).status == 0
        assert host.memory[DATA + 30] == 1  # shared
    serial = identities[0][3]
    assert identities == [(2, 1, 1, serial), (6, 2, 0, serial)]


def test_queues_and_vectors_are_those_it_was_given() -> None:
    drive = Drive()
    host = drive.bring_up(1, queues=3, vectors=2)
    assert host.admin(SET_FEATURES, cdw10=7, cdw11=30 << 16 | 30).result == 1 << 16 | 1  # two, counted from 0
    for qid, vector, status in ((3, 0, 0x101), (1, 2, 0x108), (1, 1, 0)):
        done = host.admin(CREATE_CQ, prp=(0x8000, 0), cdw10=15 << 16 | qid, cdw11=vector << 16 | 3)
        assert done.status == status, (qid, vector)


def test_resources_are_counted() -> None:
    drive = Drive(vfs=2)
    assert drive.host.admin(IDENTIFY, cdw10=0x14).status == 0
    assert struct.unpack_from("<IIHHHH", drive.host.memory, DATA + 32) == (16, 0, 0, 32, 16, 1)
    assert drive.manage(ASSIGN, 2, QUEUES, 12) == (0, 12)
    assert drive.manage(ASSIGN, 3, QUEUES, 5)[0] == 0x121, "four are left"
    assert drive.manage(ASSIGN, 3, QUEUES, 4) == (0, 4)
    assert drive.manage(ASSIGN, 2, QUEUES, 2) == (0, 2), "what it has is given back first"
    assert drive.manage(ASSIGN, 2, QUEUES, 17)[0] == 0x121, "more than one controller can have"
    assert drive.host.admin(IDENTIFY, cdw10=0x14).status == 0
    assert struct.unpack_from("<II", drive.host.memory, DATA + 32) == (16, 6)
    assert drive.manage(OFFLINE, 3) == (0, 0)
    assert drive.list() == [(2, 1, 0, 1, 2, 0), (3, 1, 0, 2, 0, 0)]


@pytest.mark.parametrize(
    ("action", "cntlid", "kind", "count", "status"),
    [
        (ONLINE, 2, 0, 0, 0x120),  # without resources
        (ONLINE, 9, 0, 0, 0x11F),
        (ONLINE, 1, 0, 0, 0x11F),  # the primary controller
        (ASSIGN, 2, 2, 1, 0x122),
        (1, 1, QUEUES, 1, 0x121),
        (1, 1, QUEUES, 0, 0),
        (1, 2, QUEUES, 0, 0x11F),
        (2, 2, 0, 0, 0x002),
    ],
)
def test_what_is_refused(action: int, cntlid: int, kind: int, count: int, status: int) -> None:
    assert Drive().manage(action, cntlid, kind, count)[0] == status


def test_what_depends_on_the_state() -> None:
    drive = Drive(vfs=3, enabled=2)
    drive.bring_up(1)
    assert drive.manage(ASSIGN, 2, QUEUES, 2)[0] == 0x120, "it is online"
    assert drive.manage(ONLINE, 2) == (0, 0), "again"
    drive.manage(ASSIGN, 4, QUEUES, 2)
    drive.manage(ASSIGN, 4, VECTORS, 1)
    assert drive.manage(ONLINE, 4)[0] == 0x120, "its virtual function is not enabled"


@pytest.mark.parametrize("how", ["primary is reset", "primary is disabled", "functions are disabled", "offline"])
def test_what_takes_it_offline(how: str) -> None:
    drive = Drive()
    host = drive.bring_up(1)
    if how == "primary is reset":
        drive.primary.reset()
    elif how == "primary is disabled":
        drive.host.write(0x14, 0)
    elif how == "functions are disabled":
        drive.enable(0)
    else:
        drive.manage(OFFLINE, 2)
    assert host.read(CSTS) == 2
    assert host.nvme.submission == {}


def test_a_reset_of_the_function_leaves_it_online() -> None:
    drive = Drive()
    host = drive.bring_up(1)
    host.nvme.reset()
    assert (host.read(CSTS), host.read(8)) == (0, 0x10400)


def test_a_controller_without_virtual_functions_knows_nothing_of_it() -> None:
    host = Host(NvmePrimary(size="1M"))
    assert host.admin(VIRTUALIZATION_MANAGEMENT, cdw10=ONLINE | 2 << 16).status == 0x001
    assert [host.admin(IDENTIFY, cdw10=cns).status for cns in (0x14, 0x15)] == [0x002, 0x002]
    assert host.nvme.config.size == 4096
    assert host.nvme.config.read(0x100, 4) == 0
