# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own iommufd selftest, an unmodified program, under ``uvfio run --iommufd-test``."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from shared import need, need_program

TESTS = 246
NO_VIOMMU = 5  # of a variant without a vIOMMU, which the program itself skips
HUGE_PAGES = 64  # what its largest variant maps
NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")

pytestmark = pytest.mark.live


def huge_pages() -> None:
    """The program maps huge pages; an administrator has to have set them aside, or we do."""
    if int(NR_HUGEPAGES.read_text()) < HUGE_PAGES and os.access(NR_HUGEPAGES, os.W_OK):
        NR_HUGEPAGES.write_text(f"{HUGE_PAGES}\n")
    if int(NR_HUGEPAGES.read_text()) < HUGE_PAGES:
        reason = f"needs {HUGE_PAGES} huge pages: echo {HUGE_PAGES} > {NR_HUGEPAGES}"
        if os.environ.get("UVFIO_REQUIRE_SHARED"):
            pytest.fail(f"must not be skipped here: {reason}")
        pytest.skip(reason)


def outcomes(prefix: list[str]) -> tuple[list[str], list[str]]:
    """The tests that fail, and all."""
    huge_pages()
    program = need("kselftest") / "kselftest" / "iommufd"
    command = [*prefix, sys.executable, "-m", "uvfio", "run", "--iommufd-test", "--", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "uvfio" not in done.stderr, done.stderr
    failed = re.findall(r"^not ok \d+ (\S+)", done.stdout, re.MULTILINE)
    passed = re.findall(r"^ok \d+ (\S+)", done.stdout, re.MULTILINE)
    print("\n".join(line for line in done.stdout.splitlines() if line.startswith("# iommufd.c")))
    skipped = re.findall(r"^ok .* # SKIP .*", done.stdout, re.MULTILINE)
    assert len(skipped) == NO_VIOMMU, skipped
    assert done.returncode == bool(failed)
    return failed, passed + failed


def test_all_pass() -> None:
    failed, run = outcomes([])
    assert failed == []
    assert len(run) == TESTS


def test_without_privileges_all_pass_that_need_none() -> None:
    """Not having CAP_IPC_LOCK, nobody may have more memory pinned than RLIMIT_MEMLOCK, on Linux as here."""
    if os.geteuid():
        pytest.skip("is what test_all_pass was, as this is not root")
    setpriv = need_program("setpriv", "util-linux")
    _soft, limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    failed, run = outcomes([setpriv, "--bounding-set=-all", "--inh-caps=-all", "--"])
    too_large = [n for n in (64, 128) if limit != resource.RLIM_INFINITY and n << 20 > limit]
    assert failed == [
        f"iommufd_dirty_tracking.domain_dirty{n}M{huge}.get_dirty_bitmap{clear}"
        for n in too_large
        for huge in ("", "_huge")
        for clear in ("", "_no_clear")
    ]
    assert len(run) == TESTS
