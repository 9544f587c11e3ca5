# SPDX-License-Identifier: GPL-2.0-only
"""Debian's nvme-cli (libnvme) in a Linux guest on our disk: what it shows is what the controller has."""

from __future__ import annotations

import base64
import re
import runpy
import subprocess
from pathlib import Path

import pytest
from clients_build import ROOT, uvfio_run
from shared import need_program

from uvfio.devices.nvme import Nvme
from uvfio.devices.nvme_identify import identify
from uvfio.devices.nvme_spec import Command

pytestmark = pytest.mark.live

INIT = """#!/busybox sh
/busybox mkdir -p /bin /proc /sys /dev /tmp
/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in /modules/*; do [ -f $m ] && insmod $m; done
until [ -b /dev/nvme0n1 ]; do sleep 0.1; done
say() { echo "== $1"; shift; "$@" 2>&1; }
raw() { echo "== $1"; shift; "$@" | base64 -w 0; echo; }
nvme() { $NVME "$@"; }
$COMMANDS
poweroff -f
"""
COMMANDS = """
head -c 4096 /dev/urandom > /tmp/a
D=/dev/nvme0n1; BLOCKS="$D -s 8 -c 7 -z 4096"
say list nvme list
raw id-ctrl nvme id-ctrl /dev/nvme0 -b
raw id-ns nvme id-ns $D -b
say list-ns nvme list-ns /dev/nvme0
say queues nvme get-feature /dev/nvme0 -f 7
say hot nvme set-feature /dev/nvme0 -f 4 -v 0x150
say threshold nvme get-feature /dev/nvme0 -f 4
raw before nvme smart-log /dev/nvme0 -b
say write nvme write $BLOCKS -d /tmp/a
say read nvme read $BLOCKS -d /tmp/b
say same cmp /tmp/a /tmp/b
say compare nvme compare $BLOCKS -d /tmp/a
say flush nvme flush $D
say zeroes nvme write-zeroes $D -s 8 -c 7
say differs nvme compare $BLOCKS -d /tmp/a
say trim nvme dsm $D -s 0 -b 8 -d
say verify nvme verify $D -s 0 -c 7
say beyond nvme read $D -s 100000000 -c 0 -z 512 -d /tmp/b
say format nvme format $D --force
raw after nvme smart-log /dev/nvme0 -b
say errors nvme error-log /dev/nvme0 -e 16
say firmware nvme fw-log /dev/nvme0
say reset nvme reset /dev/nvme0
say alive nvme read $BLOCKS -d /tmp/b
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By the name of a command, what it printed in the guest."""
    demo = runpy.run_path(str(ROOT / "examples" / "demo_qemu.py"))
    nvme = need_program("nvme", "nvme-cli")
    for name, package in (("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("cpio", "cpio")):
        need_program(name, package)
    kernel = demo["newest_kernel"]()
    if kernel is None:
        pytest.skip("NO KERNEL IN /boot (Debian: linux-image-cloud-amd64): nvme-cli was not run")
    libraries = re.findall(r"/\S+", subprocess.check_output(["ldd", nvme], text=True))
    init = INIT.replace("$NVME", nvme).replace("$COMMANDS", COMMANDS)
    directory = tmp_path_factory.mktemp("nvme-cli")
    image = demo["make_initrd"](directory, kernel, init, [Path(nvme), *map(Path, libraries)])
    guest = demo["command"](kernel, image, ["0000:00:01.0"])
    run = uvfio_run(guest, devices=("nvme,size=8M,serial=S1",), timeout=300)
    sections = re.split(r"^== (\S+)\n", run.stdout.replace("\r", ""), flags=re.M)
    assert len(sections) > 1, run.stdout + run.stderr
    return dict(zip(sections[1::2], sections[2::2], strict=True))


def test_it_finds_the_disk(said: dict[str, str]) -> None:
    assert re.search(
        r"^/dev/nvme0n1 +/dev/ng0n1 +S1 +uvfio NVMe controller +1 +8\.39 +MB / +8\.39 +MB +512 +B \+ +0 B +1\.0 *$",
        said["list"],
        re.M,
    )
    assert said["list-ns"] == "[   0]:0x1\n"


def test_identify_says_what_the_model_says(said: dict[str, str]) -> None:
    nvme, nothing = Nvme(size="8M", serial="S1"), Command._make([0] * len(Command._fields))
    assert base64.b64decode(said["id-ctrl"]) == identify(nvme, nothing._replace(cdw10=1))
    assert base64.b64decode(said["id-ns"]) == identify(nvme, nothing._replace(nsid=1))


def test_features_are_read_and_written(said: dict[str, str]) -> None:
    assert said["queues"].endswith("Current value:0x00010001\n")  # two for two processors
    assert said["threshold"].endswith("Current value:0x00000150\n")


def test_io_commands(said: dict[str, str]) -> None:
    assert said["write"] == "write: Success\n"
    assert said["read"] == "read: Success\n"
    assert said["same"] == ""
    assert said["compare"] == "compare: Success\n"
    assert said["flush"] == "NVMe Flush: success\n"
    assert said["zeroes"] == "NVME Write Zeroes Success\n"
    assert said["trim"] == "NVMe DSM: success\n"
    assert said["verify"] == "NVME Verify Success\n"
    assert said["differs"].endswith("(0x4285)\n")
    assert said["beyond"].endswith("(0x4080)\n")
    assert said["format"].endswith("(0x4001)\n")


def test_logs_count_what_was_done(said: dict[str, str]) -> None:
    before, after = base64.b64decode(said["before"]), base64.b64decode(said["after"])

    def grown(at: int) -> int:
        return int.from_bytes(after[at : at + 16], "little") - int.from_bytes(before[at : at + 16], "little")

    # NVMe 1.4, figure 194: host reads (compare is one) and writes; percent of spare; power cycles.
    assert [grown(64), grown(80)] == [3, 1]
    assert (after[3], after[112]) == (100, 1)
    # The guest's driver tries some that we do not have, too.
    assert {"0x4001", "0x4080", "0x4285"} <= set(re.findall(r"status_field\s*: (0x\w+)", said["errors"]))
    assert grown(176) >= 3
    assert re.search(r"^afi +: 0x1$", said["firmware"], re.M)


def test_it_lives_through_a_reset(said: dict[str, str]) -> None:
    assert said["reset"] == ""
    assert said["alive"].startswith("read: Success\n")
