# SPDX-License-Identifier: GPL-2.0-only
"""Event files and memory of an iommufd, as a real program sees them."""

from __future__ import annotations

import os
import sys

import pytest
from clients_build import CLIENTS
from toy_iommu import machine_with_toy_iommu

from uvfio.live.supervisor import Supervisor

pytestmark = pytest.mark.live

SEEN = """\
fault queue: 0x4 b'' ESPIPE ok
event queue: 0x0 b'' EINVAL EINVAL
positions: ['ESPIPE', 'ESPIPE'] ESPIPE
links: anon_inode:[iommufd-pgfault] anon_inode:[iommufd-viommu-event]
close on exec: [1, 1]
epoll, nothing: []
epoll, both: True
epoll, edge and level: True
epoll, another edge: True
select: [True, True]
poll: 0x45 0x41
EINVAL with one waiting: EINVAL EINVAL
event: 000000000000000007000000 0x0
first fault: (2, 1, 0, 1, 3, 0, 4096, 0, 1)
second fault: (2, 1, 0, 2, 3, 0, 4096, 0, 2)
read all: 0x4
response: 8 EINVAL
one waits: 0x45
detached: 0x4 b'' EINVAL
a copy: 0x41 000000000100000008000000 busy: EBUSY
the child has read it: 0x0
closed: ok ENOENT
fault queue in use: EBUSY ok ok
odd: ENXIO ENXIO ENXIO
private: EINVAL
executable: EPERM
shared: b'U\\x00\\x00\\x00useruser' EBUSY
mapped by a child: EBUSY
by nobody: ok ENXIO EBUSY
"""


def test_a_vmm_that_waits_for_events(capfd: pytest.CaptureFixture[str]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    machine, _ops = machine_with_toy_iommu()
    supervisor = Supervisor(machine)
    try:
        status = supervisor.run([sys.executable, str(CLIENTS / "iommufd_events.py")])
    finally:
        supervisor.close()
    seen = capfd.readouterr()
    assert (seen.out, seen.err, status) == (SEEN, "", 0)
    assert not supervisor.open_files.by_link
    assert set(os.listdir("/proc/self/fd")) == before
