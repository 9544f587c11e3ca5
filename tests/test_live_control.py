# SPDX-License-Identifier: GPL-2.0-only
"""Plugging and unplugging from outside while a program runs."""

from __future__ import annotations

import sys
import textwrap

from uvfio.live.supervisor import run
from uvfio.machine import Machine, Plugged

CLIENT = """
import json, os, socket
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["UVFIO_CONTROL"])
f = s.makefile("rw")
def ask(line):
    f.write(line + "\\n"); f.flush()
    return json.loads(f.readline())
"""


def client(code: str) -> int:
    machine = Machine()
    machine.boot([Plugged("edu")])
    return run([sys.executable, "-c", CLIENT + textwrap.dedent(code)], machine)


def test_plug_list_and_unplug() -> None:
    assert not client(
        """
        assert ask("list")["result"] == ["0000:00:00.0", "0000:00:01.0"]
        assert ask("plug edu@0000:00:05.0") == {"ok": True, "result": "0000:00:05.0"}
        assert open("/sys/bus/pci/devices/0000:00:05.0/vendor").read() == "0x1234\\n"
        assert os.path.exists("/dev/vfio/2")
        assert ask("unplug 0000:00:05.0")["ok"]
        assert not os.path.exists("/sys/bus/pci/devices/0000:00:05.0")
        assert not os.path.exists("/dev/vfio/2")
        """
    )


def test_unplug_waits_for_the_device_and_nothing_else_does() -> None:
    assert not client(
        """
        import threading
        fd = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
        iommufd = os.open("/dev/iommu", os.O_RDWR)
        import fcntl, struct
        fcntl.ioctl(fd, 0x3b76, bytearray(struct.pack("<IIiI", 16, 0, iommufd, 0)))
        answers = []
        t = threading.Thread(target=lambda: answers.append(ask("unplug 0000:00:01.0")))
        t.start()
        while os.path.exists("/dev/vfio/devices/vfio0"):
            pass
        assert t.is_alive() and not answers
        os.close(fd)
        t.join(10)
        assert answers == [{"ok": True, "result": "0000:00:01.0"}]
        """
    )


def test_nonsense_is_answered() -> None:
    assert not client(
        """
        for line in ("", "dance", "plug", "plug nosuch", "plug edu@nonsense", "unplug 0000:00:1f.0", "plug a b c"):
            answer = ask(line)
            assert not answer["ok"] and answer["error"], (line, answer)
        """
    )
