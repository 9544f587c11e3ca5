# SPDX-License-Identifier: GPL-2.0-only
"""Running a program of a benchmark in the reference kernel, where that is at hand."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

ORACLE = Path(__file__).parent.parent.parent / "shared" / "oracle" / "run"


def in_the_reference(client: str, script: str, *qemu: str) -> list[str] | None:
    """
    The lines that *script* prints there, with the static program *client* beside it as
    ``client``; *qemu*: further arguments. None, and a line, if there is no reference kernel.
    """
    if not ORACLE.exists() or shutil.which("qemu-system-x86_64") is None:
        print("NO REFERENCE KERNEL (../shared/oracle and qemu-system-x86): it is left out")
        return None
    with tempfile.TemporaryDirectory() as payload:
        shutil.copy(client, Path(payload, "client"))
        Path(payload, "cmd").write_text(f"echo 1 > /proc/sys/kernel/printk; {script}\n")
        done = subprocess.run([str(ORACLE), payload, *qemu], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()
