# SPDX-License-Identifier: GPL-2.0-only
"""The NVMe controller: registers, queues, interrupts and admin commands, by NVMe 1.4."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from nvme_host import ADMIN_CQ, ADMIN_SQ, CC_ON, DATA, ENTRIES, IO_CQ, IO_SQ, PAGE, Host

from uvfio.devices import nvme_admin, nvme_io
from uvfio.devices.nvme import Nvme
from uvfio.devices.nvme_spec import ADMIN_COMMANDS, NVM_COMMANDS
from uvfio.devices.registry import make


@pytest.fixture
def host() -> Host:
    return Host()


def test_registers_after_reset() -> None:
    nvme = Nvme()
    assert nvme.bar_read(0, 0, 8) == 0x0040_0020_0F01_0FFF
    assert [nvme.bar_read(0, off, 4) for off in (0, 4, 8, 0x14, 0x1C)] == [0x0F010FFF, 0x00400020, 0x10400, 0, 0]


def test_wide_registers_take_halves() -> None:
    nvme = Nvme()
    nvme.bar_write(0, 0x28, 4, 0x12345FFF)
    nvme.bar_write(0, 0x2C, 4, 0x1)
    assert (nvme.bar_read(0, 0x28, 8), nvme.bar_read(0, 0x2C, 4)) == (0x1_1234_5000, 1)
    nvme.bar_write(0, 0x28, 4, 0x1000)
    assert nvme.bar_read(0, 0x28, 8) == 0x1_0000_1000


def test_it_becomes_ready_and_stops(host: Host) -> None:
    assert host.read(0x1C) == 1
    host.create_queues()
    host.write(0x14, 0)
    assert (host.read(0x1C), host.nvme.submission) == (0, {})
    assert host.read(0x28, 8) == ADMIN_SQ  # a controller reset leaves these


@pytest.mark.parametrize("cc", [CC_ON | 5 << 7, CC_ON | 1 << 4, CC_ON | 1 << 11], ids=["page size", "CSS", "AMS"])
def test_what_is_not_supported_is_fatal(cc: int) -> None:
    host = Host()
    host.write(0x14, 0)
    host.write(0x14, cc)
    assert host.read(0x1C) == 2


def test_shutdown(host: Host) -> None:
    host.write(0x14, CC_ON | 1 << 14)
    assert host.read(0x1C) >> 2 & 3 == 2
    host.write(0x14, CC_ON)
    assert host.read(0x1C) == 1


def test_a_function_reset_puts_everything_back(host: Host) -> None:
    host.create_queues()
    host.nvme.reset()
    assert [host.read(off) for off in (0x14, 0x1C, 0x24, 0x28)] == [0, 0, 0, 0]


def test_identify_controller(host: Host) -> None:
    assert host.admin(0x06, cdw10=1).status == 0
    data = host.memory[DATA : DATA + PAGE]
    assert data[4:24] == b"uvfio-0000:00:01.0  "
    assert data[24:64].rstrip() == b"uvfio NVMe controller"
    assert (data[77], data[512], data[513], data[111]) == (8, 0x66, 0x44, 1)
    assert struct.unpack_from("<I", data, 516) == (1,)
    assert data[768:].startswith(b"nqn.2026-11.org.uvfio:uvfio-0000:00:01.0\0")


def test_identify_namespaces(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(8192))
    host = Host(make("nvme", file=f"{tmp_path}/a:{tmp_path}/b", block="4096", readonly="yes"))
    assert host.admin(0x06, nsid=0, cdw10=2).status == 0
    assert struct.unpack_from("<3I", host.memory, DATA) == (1, 2, 0)
    assert host.admin(0x06, nsid=2, cdw10=0).status == 0
    assert struct.unpack_from("<3Q", host.memory, DATA) == (2, 2, 2)
    assert host.memory[DATA + 99] == 1  # write protected
    assert struct.unpack_from("<I", host.memory, DATA + 128) == (12 << 16,)
    names = []
    for nsid in (1, 2):
        assert host.admin(0x06, nsid=nsid, cdw10=3).status == 0
        assert host.memory[DATA : DATA + 4] == bytes((3, 16, 0, 0))
        names.append(bytes(host.memory[DATA + 4 : DATA + 20]))
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ({"opcode": 0x7F}, 0x01),
        ({"opcode": 0x06, "cdw10": 0x77}, 0x02),
        ({"opcode": 0x06, "nsid": 2}, 0x0B),
        ({"opcode": 0x06, "nsid": 1, "prp": (DATA + 1, 0)}, 0x13),
        ({"opcode": 0x06, "cdw10": 1, "prp": (1 << 40, 0)}, 0x04),
        ({"opcode": 0x06, "cdw10": 1, "flags": 0x40}, 0x02),
        ({"opcode": 0x06, "cdw10": 1, "flags": 0x01}, 0x02),
        ({"opcode": 0x05, "prp": (IO_CQ, 0), "cdw10": 0xF0000, "cdw11": 1}, 0x101),
        ({"opcode": 0x05, "prp": (IO_CQ, 0), "cdw10": 0xF0020, "cdw11": 1}, 0x101),
        ({"opcode": 0x05, "prp": (IO_CQ, 0), "cdw10": 0x00001, "cdw11": 1}, 0x102),
        ({"opcode": 0x05, "prp": (IO_CQ, 0), "cdw10": 0xFFFF0001, "cdw11": 1}, 0x102),
        ({"opcode": 0x05, "prp": (IO_CQ, 0), "cdw10": 0xF0001, "cdw11": 0}, 0x02),
        ({"opcode": 0x05, "prp": (IO_CQ + 64, 0), "cdw10": 0xF0001, "cdw11": 1}, 0x13),
        ({"opcode": 0x05, "prp": (IO_CQ, 0), "cdw10": 0xF0001, "cdw11": 1 << 16 | 3}, 0x108),
        ({"opcode": 0x01, "prp": (IO_SQ, 0), "cdw10": 0xF0001, "cdw11": 1}, 0x101),
        ({"opcode": 0x01, "prp": (IO_SQ, 0), "cdw10": 0xF0001, "cdw11": 5 << 16 | 1}, 0x100),
        ({"opcode": 0x00, "cdw10": 0}, 0x101),
        ({"opcode": 0x04, "cdw10": 3}, 0x101),
        ({"opcode": 0x02, "cdw10": 0x7F}, 0x109),
        ({"opcode": 0x02, "nsid": 1, "cdw10": 2}, 0x02),
        ({"opcode": 0x02, "cdw10": 2, "cdw12": 4096}, 0x02),
        ({"opcode": 0x0A, "cdw10": 0x7F}, 0x02),
        ({"opcode": 0x09, "cdw10": 0x80000006}, 0x10D),
        ({"opcode": 0x09, "cdw10": 7, "cdw11": 0xFFFF}, 0x02),
        ({"opcode": 0x09, "cdw10": 2, "cdw11": 1}, 0x02),
    ],
)
def test_bad_admin_commands(host: Host, what: dict[str, int], status: int) -> None:
    assert host.admin(**what).status == status
    assert host.admin(0x02, cdw10=0x0F0001).status == 0  # the first entry of the error log
    count, sqid, cid, logged = struct.unpack_from("<QHHH", host.memory, DATA)
    assert (count, sqid, cid, logged >> 1 & 0x7FF) == (1, 0, 1, status)


def test_queues_are_deleted_in_order(host: Host) -> None:
    host.create_queues()
    assert host.admin(0x01, prp=(IO_SQ, 0), cdw10=0xF0001, cdw11=1 << 16 | 1).status == 0x101  # there already
    assert host.admin(0x09, cdw10=7, cdw11=0).status == 0x0C
    assert host.admin(0x04, cdw10=1).status == 0x10C
    assert host.admin(0x00, cdw10=1).status == 0
    assert host.admin(0x04, cdw10=1).status == 0


def test_number_of_queues(host: Host) -> None:
    assert host.admin(0x0A, cdw10=7).result == 30 << 16 | 30
    assert host.admin(0x09, cdw10=7, cdw11=63 << 16 | 1).result == 30 << 16 | 1
    assert host.admin(0x01, prp=(IO_SQ, 0), cdw10=0xF0003, cdw11=1 << 16 | 1).status == 0x101


def test_features(host: Host) -> None:
    assert host.admin(0x0A, cdw10=6).result == 1
    assert host.admin(0x09, cdw10=6, cdw11=0).status == 0
    assert [host.admin(0x0A, cdw10=select << 8 | 6).result for select in (0, 1, 2, 3)] == [0, 1, 1, 4]
    assert host.admin(0x0A, cdw10=0x406).status == 2
    assert host.admin(0x0A, cdw10=5, nsid=7).status == 0x0B
    host.write(0x14, 0)
    assert Host(host.nvme).admin(0x0A, cdw10=6).result == 1


def test_log_pages(host: Host) -> None:
    assert host.admin(0x02, cdw10=127 << 16 | 2, nsid=0xFFFFFFFF).status == 0
    assert host.memory[DATA : DATA + 5] == bytes((0, 313 & 0xFF, 313 >> 8, 100, 10))
    assert host.admin(0x02, cdw10=127 << 16 | 3).status == 0
    assert host.memory[DATA + 8 : DATA + 16] == b"1.0     "
    assert host.admin(0x02, cdw10=1 << 16 | 3, cdw12=8).status == 0  # a part of it
    assert host.memory[DATA : DATA + 8] == b"1.0     "
    assert host.admin(0x02, cdw10=1023 << 16 | 5).status == 0
    assert struct.unpack_from("<2I", host.memory, DATA + 4 * 0x05) == (1, 1)
    assert struct.unpack_from("<3I", host.memory, DATA + 1024) == (1, 3, 1)


def test_the_effects_log_lists_what_there_is() -> None:
    assert sorted(ADMIN_COMMANDS) == sorted(nvme_admin.COMMANDS)
    assert sorted(NVM_COMMANDS) == sorted(nvme_io.COMMANDS)


def test_events_wait_for_requests_and_for_their_log_page(host: Host) -> None:
    request = host.put(0, 0x0C)
    host.put(0, 0x0C)
    host.ring(0)
    assert host.take(0) == []
    host.write(0x1000 + 8 * 9, 1)  # no such queue
    (done,) = host.take(0)
    assert (done.cid, done.result) == (request, 1 << 16 | 0 << 8)
    host.write(0x1000 + 8 * 9, 1)
    assert host.take(0) == []  # silenced
    assert host.admin(0x02, cdw10=0x8001).status == 0  # retains the event
    host.write(0x1000, ENTRIES)
    assert host.take(0) == []
    assert host.admin(0x02, cdw10=0x0001).status == 0
    host.write(0x1000, ENTRIES)
    assert [done.result for done in host.take(0)] == [1 << 16 | 1 << 8]


def test_too_hot(host: Host) -> None:
    host.put(0, 0x0C)
    host.put(0, 0x09, cdw10=4, cdw11=300)
    host.put(0, 0x09, cdw10=11, cdw11=2)
    host.put(0, 0x09, cdw10=4, cdw11=300)
    host.ring(0)
    assert [done.result for done in host.take(0)] == [0, 0, 0, 2 << 16 | 1 << 8 | 1]
    assert host.admin(0x02, cdw10=2).status == 0
    assert host.memory[DATA] == 2


def test_abort_finds_event_requests_only(host: Host) -> None:
    request = host.put(0, 0x0C)
    host.put(0, 0x08, cdw10=request << 16)
    host.ring(0)
    assert [(done.cid, done.status, done.result) for done in host.take(0)] == [(request, 7, 0), (request + 1, 0, 0)]
    assert host.admin(0x08, cdw10=request << 16).result == 1
    for _ in range(5):
        host.put(0, 0x0C)
    host.ring(0)
    assert [done.status for done in host.take(0)] == [0x105]


def test_a_full_completion_queue_holds_commands_back(host: Host) -> None:
    host.create_queues()
    for _ in range(ENTRIES - 1):
        host.put(1, 0x00, 1)
    host.ring(1)
    assert len(host.take(1, doorbell=False)) == ENTRIES - 1
    host.put(1, 0x00, 1)
    host.ring(1)
    assert host.take(1, doorbell=False) == []
    host.write(0x100C, 3)
    assert len(host.take(1, doorbell=False)) == 1


def test_a_batch_is_one_transfer_and_one_interrupt(host: Host) -> None:
    host.create_queues()
    host.nvme.config.write(0x72, 2, 0x8000)
    for vector in range(32):
        host.nvme.bar_write(4, 16 * vector + 12, 4, 0)
    host.slot.transfers.clear()
    for _ in range(8):
        host.put(1, 0x00, 1)
    host.ring(1)
    assert host.slot.transfers == [("read", IO_SQ, 512), ("write", IO_CQ, 128)]
    assert host.slot.messages == [0]
    assert [done.sq_head for done in host.take(1)] == list(range(1, 9))


def test_the_line_and_its_mask(host: Host) -> None:
    host.put(0, 0x06, cdw10=1)
    host.ring(0)
    assert host.slot.irq_line
    host.write(0x0C, 1)
    assert (host.slot.irq_line, host.read(0x0C), host.read(0x10)) == (False, 1, 1)
    host.write(0x10, 1)
    assert host.slot.irq_line
    host.take(0)
    assert not host.slot.irq_line


def test_a_message_waits_for_the_mask(host: Host) -> None:
    host.nvme.config.write(host.nvme.msi_at + 2, 2, 1)
    host.write(0x0C, 1)
    host.put(0, 0x06, cdw10=1)
    host.ring(0)
    assert host.slot.messages == []
    host.write(0x10, 1)
    assert host.slot.messages == [0]


@pytest.mark.parametrize("hole", [ADMIN_SQ, ADMIN_CQ], ids=["submission", "completion"])
def test_queues_out_of_reach_are_fatal(host: Host, hole: int) -> None:
    host.slot.holes.add(hole)
    host.put(0, 0x06, cdw10=1)
    host.ring(0)
    assert host.read(0x1C) == 3
    host.slot.holes.clear()
    host.ring(0)
    assert host.take(0) == []
    host.write(0x14, 0)
    assert host.read(0x1C) == 0


def test_doorbells_take_four_bytes_only(host: Host) -> None:
    host.put(0, 0x06, cdw10=1)
    host.nvme.bar_write(0, 0x1000, 2, 1)
    host.nvme.bar_write(0, 0x1000, 8, 1)
    assert host.take(0) == []


def test_a_reset_in_the_middle_of_a_transfer(host: Host) -> None:
    """As when it waits for a page: what is rung after the reset is done by the run that was under way."""
    host.create_queues()
    write = host.slot.try_dma_write

    def reset_once(iova: int, data: bytes) -> bool:
        host.slot.try_dma_write = write
        host.write(0x14, 0)
        again.append(Host(host.nvme))
        again[0].put(0, 0x06, cdw10=1)
        again[0].ring(0)
        return True

    again: list[Host] = []
    host.slot.try_dma_write = reset_once
    host.put(1, 0x02, 1)
    host.ring(1)
    assert [done.status for done in again[0].take(0)] == [0]
    assert not host.nvme.running


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "520"}, r"^block must be one of 512, 1024, 2048, 4096, not 520$"),
        ({"block": "x"}, r"^block must be a number, not 'x'$"),
        ({"size": "1X"}, r"^size must be a number with K, M, G or T behind it, not '1X'$"),
        ({"size": "1000"}, r"^the namespace must have a multiple of 512 bytes, not 1000: $"),
        ({"readonly": "1"}, r"^readonly must be yes or no, not '1'$"),
        ({"file": "/nonexistent/x"}, r"^the namespace must have a usable file: /nonexistent/x: No such file"),
    ],
)
def test_bad_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("nvme", **options)
