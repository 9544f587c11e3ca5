# SPDX-License-Identifier: GPL-2.0-only
"""A VMM that gives its guest an SMMUv3, as a real program."""

import sys
from pathlib import Path

import pytest
from clients_build import CLIENTS, ROOT, uvfio_run

pytestmark = pytest.mark.live

SEEN = """\
hardware: type 2, 40 bytes, two stages: True
attach without a vDEVICE: ENOENT
a second vDEVICE: EEXIST
attach: ok
destroy the vIOMMU in use: EBUSY
the device writes to the page: first
after the guest has changed its table: first
TLBI by address: 1 done
after that: second
CFGI_CD of the device: ok
CFGI_CD of another: EIO
CFGI_STE: EIO
destroy the vDEVICE of a closed device: ENOENT
its id is used again: False
CFGI_CD of a closed device: EIO
destroy the nested: ok
destroy the vIOMMU: ok
destroy the parent: ok
destroy the IOAS: ok
"""


def test_two_stages_and_a_stale_iotlb() -> None:
    run = uvfio_run([sys.executable, CLIENTS / "nested.py"], extra=("--iommu", "smmuv3"))
    assert run.stderr == ""
    assert run.stdout == SEEN


CMDQV = """\
a page of 0x10000 bytes to map
enabled: 1, consumed: 2
destroyed the queue
"""


def test_a_command_queue_that_nobody_is_told_of() -> None:
    run = uvfio_run([sys.executable, CLIENTS / "nested_cmdqv.py"], extra=("--iommu", "smmuv3,cmdqv=on"))
    assert run.stderr == ""
    assert run.stdout == CMDQV


def test_machine_file(tmp_path: Path) -> None:
    machine = tmp_path / "machine.yaml"
    machine.write_text("iommu: smmuv3\ndevices:\n  - model: edu\n")
    listing = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); print(sorted(os.listdir('/sys/class/iommu')))"
    run = uvfio_run([sys.executable, "-c", listing], devices=(), extra=("-m", machine))
    assert run.stdout == "['smmu3.0x0000000009050000', 'smmu3.0x0000000009070000']\n"
