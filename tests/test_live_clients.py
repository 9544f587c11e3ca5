# SPDX-License-Identifier: GPL-2.0-only
"""Programs of many kinds under ``uvfio run``: what they print is what they would on Linux."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clients_build import CLIENTS, ROOT, VFIO_CLIENT, build, uvfio_run
from shared import need_program
from test_client_vs_linux import RECORDED, differences

pytestmark = pytest.mark.live


def printed(program: Path, *args: str) -> str:
    """What *program* prints under uvfio; anything on stderr or a bad exit is a failure."""
    run = uvfio_run([program, *args])
    assert run.stderr == ""
    assert run.returncode == 0
    return run.stdout


def test_static_client(tmp_path: Path) -> None:
    client = build(tmp_path / "static", VFIO_CLIENT, "-static")
    run = uvfio_run([client], devices=("edu", "pci-testdev", "e1000e"))
    assert run.stderr == ""
    assert differences(RECORDED.read_text(), run.stdout) == ""


def test_threads(tmp_path: Path) -> None:
    text = printed(build(tmp_path / "threads", ["threads.c", "client_lib.c"]))
    assert text.splitlines() == [f"thread {i}: step 0 went wrong" for i in range(4)]


def test_one_fd_in_many_hands(tmp_path: Path) -> None:
    text = printed(build(tmp_path / "passing", ["passing.c", "client_lib.c"]))
    assert text.splitlines() == [
        "copies: 0x1234 0x1234 0x1234",
        "forked child: 5",
        "after exec: 6",
        "we closed all; the group opens: EBUSY",
        "the stranger closed, too; the group opens: yes",
        "stranger: 3",
    ]


def test_killed_at_any_instant(tmp_path: Path) -> None:
    text = printed(build(tmp_path / "killed", ["killed.c", "client_lib.c"]), "100")
    assert text.splitlines() == ["killed 100", "device free: 1", "fds left over: 0", "threads left over: 0"]


@pytest.mark.parametrize("flag", ["restart", "no-restart"])
def test_signals_all_the_time(tmp_path: Path, flag: str) -> None:
    text = printed(build(tmp_path / "interrupted", ["interrupted.c", "client_lib.c"]), flag)
    assert text == "wrong answers: 0, signals came: 1\n"


def test_single_stepped_registers(tmp_path: Path) -> None:
    text = printed(build(tmp_path / "stepped", ["stepped.c", "nvme_queue.c", "client_lib.c"], "-mno-red-zone"))
    rotated = ~0xFFFFFFAF & 0xFFFFFFFF  # of ~5, and inverted again
    assert text.splitlines() == [
        f"rotated: {rotated:#x}",
        "three times the identity: 0x30002c7",
        "popped: 0xa",
        "5! = 120",
    ]


def test_without_libc(tmp_path: Path) -> None:
    flags = ("-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
    assert printed(build(tmp_path / "raw", ["raw.c"], *flags)) == "6! is 720\n"


def test_rust(tmp_path: Path) -> None:
    rustc = need_program("rustc", "rustc")
    program = tmp_path / "rusty"
    subprocess.run([rustc, "--edition", "2021", "-O", "-o", program, CLIENTS / "rusty.rs"], check=True)
    assert printed(program) == "every thread read the identification: true\n"


def test_the_example(tmp_path: Path) -> None:
    text = printed(Path(sys.executable), str(ROOT / "examples" / "edu_client.py"))
    assert text.count("the device computes: 10! = 3628800") == 2
    assert text.count("the same bytes") == 2
    assert text.count("interrupt: 1 (MSI)") == 2
    assert text.rstrip().endswith("the removal is done: True; 0000:00:01.0 is gone: True")


@pytest.mark.parametrize("attempt", range(4))
def test_a_shell_writes_and_goes_there(attempt: int) -> None:
    """Who is traced for its write is let go before it changes its directory, which was a race."""
    device = "/sys/bus/pci/devices/0000:00:01.0"
    run = uvfio_run(["sh", "-c", f"echo vfio-pci > {device}/driver_override; cd {device} && cat driver_override"])
    assert (run.stdout, run.stderr) == ("vfio-pci\n", "")


def test_a_directory_of_the_host_lists_ours_too() -> None:
    script = "cd /sys/module; ls -U; echo; ls -d vfio_pci/parameters; cat */parameters/enable_unsafe_noiommu_mode"
    names, _, rest = printed(Path("/bin/sh"), "-c", script).partition("\n\n")
    assert {"vfio", "vfio_pci", *os.listdir("/sys/module")} <= set(names.split())
    assert rest == "vfio_pci/parameters\nN\n"
