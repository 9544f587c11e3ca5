# SPDX-License-Identifier: GPL-2.0-only
"""The reference kernel's recorded answers, asked of the stack by its own probes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shared import need

DEVICES = ["-d", "edu", "-d", "pci-testdev", "-d", "e1000e", "-d", "mtty", "-d", "mdpy"]

# What the host's poll says of the pipe that stands for a fault queue: POLLWRNORM, too (live/pollfile.py).
PIPE = {"FAULT poll empty", "FAULT poll IN|OUT|RDNORM"}


@pytest.mark.live
@pytest.mark.parametrize(
    ("probe", "claims", "known"),
    [
        ("vfio_group_container", 163, set()),
        ("vfio_device", 203, set()),
        ("kvm_vfio", 46, set()),
        ("vfio_cdev_mdev", 103, set()),
        ("iommufd_core", 151, set()),
        ("iommufd_hwpt_viommu", 274, PIPE),
    ],
)
def test_every_claim_of_a_probe_agrees(probe, claims, known, tmp_path):
    conformance = need("conformance") / "conformance"
    # In the reference guest /tmp is a tmpfs.
    program = tmp_path / "probe.py"
    program.write_text((conformance / f"{probe}.py").read_text().replace("/tmp/reg", f"/dev/shm/uvfio-{os.getpid()}"))
    command = [sys.executable, "-m", "uvfio", "run", "--iommufd-test", *DEVICES, "--"]
    command += ["env", f"PYTHONPATH={conformance}", sys.executable, str(program)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    finally:
        Path(f"/dev/shm/uvfio-{os.getpid()}").unlink(missing_ok=True)
    differ = [line for line in done.stdout.splitlines() if line.startswith("DIFF")]
    assert {re.sub(r"DIFF \[\w+\] (.*): table .*", r"\1", line) for line in differ} == known, "\n".join(differ)
    said = re.search(r"== (\d+) claims, (\d+) agree, (\d+) differ", done.stdout)
    assert said is not None, done.stdout + done.stderr
    assert tuple(int(n) for n in said.groups()) == (claims, claims - len(known), len(known))
    assert done.returncode == 0
    assert "uvfio:" not in done.stderr, done.stderr


# What the reference machine's ls is (busybox), and what it has and we list as differences.
LISTING = re.compile(r"^([-dlcb]\S{9}) +\d+ \S+ +\S+ +(\d+(?:, +\d+)?) .* (\S+)$")
OF_FIRMWARE = ("firmware_node ", "link ")


def canonical(text: str) -> list[str]:
    """Without dates, owners' names, column widths, the size of directories and the kernel's log."""
    lines = []
    for line in text.splitlines():
        found = LISTING.match(line)
        if found is not None:
            size = "" if found[1].startswith("d") else re.sub(" +", " ", found[2])
            line = f"{found[1]} {size} {found[3]}"
        for name in OF_FIRMWARE:
            line = line.replace(f" {name}", " ")
        if not line.startswith("pci 0000:"):
            lines.append(line)
    return lines


@pytest.mark.live
def test_sysfs_and_dev_list_and_contain_what_the_reference_kernel_printed():
    conformance = need("conformance") / "conformance"
    models = [f"{Path(__file__).parent}/clients/ich9.py:{name}" for name in ("Lpc@1f.0", "Ahci@1f.2", "Smbus@1f.3")]
    devices = [word for model in ("edu", "pci-testdev", "e1000e", *models) for word in ("-d", f"{model},driver=none")]
    command = [sys.executable, "-m", "uvfio", "run", *devices, "--"]
    command += ["env", f"PYTHONPATH={conformance}", sys.executable, str(conformance / "sysfs.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert canonical(done.stdout) == canonical((conformance / "sysfs.txt").read_text()), done.stderr
