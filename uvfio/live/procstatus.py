# SPDX-License-Identifier: GPL-2.0-only
"""
``/proc/PID/status`` of a client: what the modelled kernel has locked and pinned is added
to what the host has. Difference from Linux: it is what was so when the file was opened.
"""

from __future__ import annotations

import re

from uvfio.live.client import Client, Clients

PAGE_KIB = 4
_PATH = re.compile(r"/proc/(\d+)(?:/task/(\d+))?/status")
_FIELD = re.compile(rb"^(VmLck|VmPin):(\s+)(\d+)( kB)$", re.MULTILINE)


def status_of(path: str, clients: Clients) -> bytes | None:
    """What a client reads from *path*; None where the host has nothing to be corrected."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    client = _client(int(found[2] or found[1]), clients)
    if client is None:
        return None
    pages = {b"VmLck": client.mm.locked_vm, b"VmPin": client.mm.pinned_vm}
    if not any(pages.values()):
        return None
    try:
        with open(path, "rb") as status:
            host = status.read()
    except OSError:
        return None

    def field(line: re.Match[bytes]) -> bytes:
        kib = int(line[3]) + PAGE_KIB * pages[line[1]]
        width = len(line[2]) + len(line[3]) - 1
        return b"%s:\t%s%s" % (line[1], str(kib).rjust(width).encode(), line[4])

    return _FIELD.sub(field, host)


def _client(tid: int, clients: Clients) -> Client | None:
    """Whose process or thread has the number *tid*?"""
    client = clients.by_pid.get(tid)
    if client is not None:
        return client
    thread = clients.threads.get(tid)
    return None if thread is None else thread.client
