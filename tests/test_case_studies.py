# SPDX-License-Identifier: GPL-2.0-only
"""What the case studies show is what happens, on the reference kernel and under ``uvfio run``."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shared import need, need_program

from uvfio.live.kvm import host_has_kvm

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "docs" / "case-studies"


def transcript(script: str) -> str:
    """What *script* prints, as one of the studies shows it."""
    text = "".join(study.read_text() for study in STUDIES.glob("*.md"))
    found = re.search(rf"<!-- transcript: {script}\.py -->\n```text\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.live
def test_d7_under_uvfio():
    if not host_has_kvm():
        pytest.skip("needs a /dev/kvm that can be opened: a VM that is leaked is seen from outside of it only")
    command = [sys.executable, "-m", "uvfio", "run", "-d", "edu", "--", sys.executable, str(STUDIES / "d7.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (transcript("d7"), "", 1)


@pytest.mark.live
def test_g8_under_uvfio():
    command = [sys.executable, "-m", "uvfio", "run", "-d", "edu", "--", sys.executable, str(STUDIES / "g8.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (transcript("g8"), "", 1)


@pytest.mark.oracle
@pytest.mark.parametrize("study", ["d7", "g8", "m5_memory", "m5_early"])
def test_on_the_reference_kernel(study, tmp_path):
    oracle = need("oracle/run") / "oracle" / "run"
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio"), ("xz", "xz-utils")):
        need_program(program, package)
    shutil.copy(STUDIES / f"{study}.py", tmp_path)
    (tmp_path / "cmd").write_text(f"python3.11 {study}.py\n")
    done = subprocess.run([oracle, tmp_path], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == (transcript(study), 1)
