# SPDX-License-Identifier: GPL-2.0-only
"""
The machines that run now: where each has its control socket, and how to talk to one.

A socket is called by the number of the supervisor's process, in a directory that only
the user can enter. One that nobody answers any more is of a supervisor that was killed.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

DIRECTORY_MODE = 0o700


class NoMachine(Exception):
    """There is no such machine, or it went away; the message says what must be."""


def directory() -> Path:
    """Where sockets are, made if need be. NoMachine when it is not ours alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(runtime, "uvfio") if runtime and os.access(runtime, os.W_OK) else Path(f"/tmp/uvfio-{os.getuid()}")
    try:
        path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        found = path.lstat()
    except OSError as e:
        raise NoMachine(f"{path} must be a directory of ours: {e.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise NoMachine(f"{path} must be a directory that only we can enter")
    return path


def running() -> list[int]:
    """The machines that answer, by the number of their process."""
    found = []
    for path in directory().iterdir():
        if path.name.isdigit() and _answers(path):
            found.append(int(path.name))
    return sorted(found)


class Connection:
    """Talks to one machine: one command, one answer. A context manager."""

    def __init__(self, pid: int | None = None) -> None:
        """The machine *pid*, or the only one there is. NoMachine."""
        if pid is None:
            pid = _the_only_one()
        self.pid = pid
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(directory() / str(pid)))
        except OSError as e:
            self._socket.close()
            raise NoMachine(f"there must be a machine with process {pid}, but {e.strerror}") from None
        self._file = self._socket.makefile("rw", encoding="utf-8")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, *words: str) -> dict[str, Any]:
        """``{"ok": True, "result": ...}`` or ``{"ok": False, "error": ...}``. NoMachine when it ends meanwhile."""
        try:
            self._file.write(" ".join(words) + "\n")
            self._file.flush()
            line = self._file.readline()
        except OSError:
            line = ""
        if not line:
            raise NoMachine(f"the machine {self.pid} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _the_only_one() -> int:
    pids = running()
    if not pids:
        raise NoMachine("there must be a machine that runs: uvfio run ...")
    if len(pids) > 1:
        raise NoMachine(f"several machines run; name one of {', '.join(map(str, pids))} with -p")
    return pids[0]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # its supervisor was killed
            return False
        except OSError:
            return False
    return True
