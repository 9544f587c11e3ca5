# SPDX-License-Identifier: GPL-2.0-only
"""``uvfio doctor``: what this computer can and cannot do, and how to mend it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uvfio.live.spawn import CannotRun, fd_base, spawn

# The oldest kernel with SECCOMP_IOCTL_NOTIF_ADDFD's SEND flag and WAIT_KILLABLE_RECV.
OLDEST = (5, 19)
FAST = (6, 6)  # SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
WATCHES = 256  # inotify watches that a busy client may need


@dataclass(frozen=True)
class Check:
    """One finding: ``ok``, ``slow`` (works, but) or ``no`` (``uvfio run`` will not)."""

    name: str
    state: str
    found: str
    mend: str = ""


def add_arguments(verbs: Any) -> None:
    sub = verbs.add_parser(
        "doctor", help="say what this computer can do, and how to mend it", epilog="example: uvfio doctor --json"
    )
    sub.add_argument("--json", action="store_true", help="machine-readable")
    sub.add_argument("-v", "--verbose", action="store_true", help="also what is fine")
    sub.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    checks = [kernel(), architecture(), seccomp(), memory_access(), inotify(), descriptors(), kvm()]
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.state:4}  {check.name:20} {check.found}")
            if check.mend and (check.state != "ok" or args.verbose):
                print(f"      {'':20} -> {check.mend}")
    return 1 if any(check.state == "no" for check in checks) else 0


def kernel() -> Check:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < OLDEST:
        return Check("kernel", "no", release, "Linux must be 5.19 or later")
    if version < FAST:
        return Check("kernel", "slow", release, "Linux 6.6 answers system calls about ten times faster")
    return Check("kernel", "ok", release)


def architecture() -> Check:
    machine = platform.machine()
    mend = "" if machine == "x86_64" else "uvfio run must have an x86-64 computer; uvfio explore works everywhere"
    return Check("architecture", "no" if mend else "ok", machine, mend)


def seccomp() -> Check:
    """Start a program under the filter, for real."""
    try:
        pid, listener = spawn(["/bin/sh", "-c", ":"], {}, fd_base(), False)
    except CannotRun as e:
        return Check("seccomp", "no", str(e), "run it outside of a container, or allow seccomp() in its profile")
    os.kill(pid, signal.SIGKILL)  # it waits for us at the first file it opens
    os.waitpid(pid, 0)
    os.close(listener)
    return Check("seccomp", "ok", "a program can be supervised")


def memory_access() -> Check:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    level = int(scope.read_text()) if scope.exists() else 0
    if level >= 2 and os.geteuid() != 0:
        return Check("memory of clients", "no", f"ptrace_scope is {level}", f"echo 1 > {scope}, as root")
    return Check("memory of clients", "ok", "readable" if not scope.exists() else f"ptrace_scope is {level}")


def inotify() -> Check:
    path = Path("/proc/sys/fs/inotify/max_user_watches")
    watches = int(path.read_text()) if path.exists() else 0
    if watches < WATCHES:
        return Check("inotify", "no", f"{watches} watches", f"echo 8192 > {path}, as root")
    return Check("inotify", "ok", f"{watches} watches")


def descriptors() -> Check:
    return Check("file descriptors", "ok", f"devices get numbers from {fd_base()} on")


def kvm() -> Check:
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Check("kvm", "ok", "/dev/kvm can be opened")
    return Check("kvm", "ok", "no /dev/kvm", "only guests that want it must do without")
