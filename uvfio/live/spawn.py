# SPDX-License-Identifier: GPL-2.0-only
"""
Start the client: fork, put the child under the filter, hand its listener over, exec.

The child tells how it went through a pipe that exec closes: a step and an errno, or
nothing. Between fork and exec it only makes calls that the filter lets pass.
"""

from __future__ import annotations

import array
import os
import resource
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOSYS

from uvfio.live import host
from uvfio.live.filter import SockFprog, assemble

FDS_OF_OURS = 128
_REPORT = struct.Struct("<iI")
_STEPS = ("no_new_privs", "seccomp", "listener", "exec")


class CannotRun(Exception):
    """The client could not be started; the message is one line for the user."""


def fd_base() -> int:
    """The lowest fd number that we give out: high enough to be out of everybody's way."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 1024 if soft == resource.RLIM_INFINITY else min(soft, 1024)
    return limit - min(FDS_OF_OURS, limit // 2)


def spawn(argv: Sequence[str], env: Mapping[str, str], base: int, modelled_kvm: bool) -> tuple[int, int]:
    """Start *argv* under the filter: its pid, and the listener's fd. May raise CannotRun."""
    fprog = SockFprog(assemble(base, modelled_kvm))
    report_r, report_w = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = os.fork()
    if pid == 0:
        _child(argv, env, fprog, report_w, theirs)
    os.close(report_w)
    theirs.close()
    try:
        listener = _receive_fd(ours)
        report = os.read(report_r, _REPORT.size)
    finally:
        ours.close()
        os.close(report_r)
    if report:
        os.waitpid(pid, 0)
        if listener is not None:
            os.close(listener)
        step, number = _REPORT.unpack(report)
        raise CannotRun(_explain(argv[0], _STEPS[step], number))
    if listener is None:
        os.waitpid(pid, 0)
        raise CannotRun(f"cannot run {argv[0]}: the child died before it could start")
    return pid, listener


def _child(argv: Sequence[str], env: Mapping[str, str], fprog: SockFprog, report: int, link: socket.socket) -> None:
    step = 0
    try:
        # Python ignores these, and exec would pass that on.
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored, signal.SIG_DFL)
        host.no_new_privs()
        step = 1
        listener = host.seccomp_listener(fprog)
        step = 2
        socket.send_fds(link, [b"L"], [listener])
        os.close(listener)
        step = 3
        os.execvpe(argv[0], list(argv), dict(env))
    except OSError as e:
        os.write(report, _REPORT.pack(step, e.errno or EINVAL))
    finally:
        os._exit(125)


def _receive_fd(link: socket.socket) -> int | None:
    size = array.array("i").itemsize
    _data, ancillary, _flags, _addr = link.recvmsg(1, socket.CMSG_SPACE(size))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fd = int(array.array("i", data[:size])[0])
            os.set_inheritable(fd, False)
            return fd
    return None


def _explain(program: str, step: str, number: int) -> str:
    why = os.strerror(number)
    if step == "exec":
        return f"cannot run {program}: {why}" + (" (not in PATH)" if number == ENOENT and "/" not in program else "")
    if step == "seccomp" and number == EBUSY:
        return "cannot run the client: it is under a seccomp supervisor already, and there can be only one"
    if step == "seccomp" and number in (EINVAL, ENOSYS):
        return "cannot run the client: this kernel has no seccomp notification with WAIT_KILLABLE_RECV (Linux 5.19)"
    if step == "seccomp" and number == EACCES:
        return "cannot run the client: seccomp is not permitted here"
    return f"cannot run the client: {step}: {why}"
