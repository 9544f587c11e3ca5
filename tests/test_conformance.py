# SPDX-License-Identifier: GPL-2.0-only
"""The reference kernel's recorded answers, asked of the stack by its own probes."""

import re
import subprocess
import sys

import pytest
from shared import need

DEVICES = ["-d", "edu", "-d", "pci-testdev", "-d", "e1000e", "-d", "mtty", "-d", "mdpy"]


@pytest.mark.live
@pytest.mark.parametrize(
    ("probe", "claims"),
    [
        ("vfio_group_container", 163),
        ("vfio_device", 203),
        ("kvm_vfio", 46),
        ("vfio_cdev_mdev", 103),
    ],
)
def test_every_claim_of_a_probe_agrees(probe, claims):
    conformance = need("conformance") / "conformance"
    command = [sys.executable, "-m", "uvfio", "run", *DEVICES, "--"]
    command += ["env", f"PYTHONPATH={conformance}", sys.executable, str(conformance / f"{probe}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    differ = [line for line in done.stdout.splitlines() if line.startswith("DIFF")]
    assert not differ, "\n".join(differ)
    said = re.search(r"== (\d+) claims, (\d+) agree, 0 differ", done.stdout)
    assert said is not None, done.stdout + done.stderr
    assert (int(said[1]), int(said[2])) == (claims, claims)
    assert done.returncode == 0
    assert "uvfio:" not in done.stderr, done.stderr
