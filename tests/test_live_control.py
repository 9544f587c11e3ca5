# SPDX-License-Identifier: GPL-2.0-only
"""Plugging and unplugging from outside while a program runs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from uvfio.live.running import NoMachine, directory, running
from uvfio.live.supervisor import run
from uvfio.machine import Machine, Plugged

pytestmark = pytest.mark.live

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
        assert [each["bdf"] for each in ask("list")["result"]] == ["0000:00:00.0", "0000:00:01.0"]
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
        for line in ("", "dance", "plug", "plug nosuch", "plug edu@nonsense", "unplug 0000:00:1f.0", "plug a b c",
                     "reset", "reset 0000:00:01.0", "iotlb", "iotlb 0000:00:1f.0",
                     "fault", "fault 0000:00:01.0 dma many", "fault 0000:00:1f.0 dma",
                     "fault 0000:00:00.0 error"):
            answer = ask(line)
            assert not answer["ok"] and answer["error"], (line, answer)
        """
    )


def test_an_error_and_a_blocked_access_reach_the_client() -> None:
    assert not client(
        """
        import fcntl, struct
        fd = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
        iommufd = os.open("/dev/iommu", os.O_RDWR)
        fcntl.ioctl(fd, 0x3b76, bytearray(struct.pack("<IIiI", 16, 0, iommufd, 0)))
        error = os.eventfd(0)
        fcntl.ioctl(fd, 0x3b6e, struct.pack("<5Ii", 24, 4 | 32, 3, 0, 1, error))
        assert ask("fault 0000:00:01.0 error")["ok"]
        assert os.eventfd_read(error) == 1
        assert ask("fault 0000:00:01.0 dma 2") == {"ok": True, "result": "0000:00:01.0"}
        found = {each["bdf"]: each for each in ask("status")["result"]["devices"]}
        assert found["0000:00:01.0"]["open"] == 1 and found["0000:00:01.0"]["vfio"] == "vfio0"
        """
    )


def test_calls_are_counted_from_the_first_look_on() -> None:
    assert not client(
        """
        import fcntl, struct
        container = os.open("/dev/vfio/vfio", os.O_RDWR)
        fcntl.ioctl(container, 0x3b64)
        assert "VFIO_GET_API_VERSION" not in ask("status")["result"]["calls"]
        for _ in range(3):
            fcntl.ioctl(container, 0x3b64)
        status = ask("status")["result"]
        assert status["calls"]["VFIO_GET_API_VERSION"] == 3
        assert [each["name"] for each in status["address_spaces"]] == ["container"]
        """
    )


def uvfio(*words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "uvfio", *words], capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The number of a machine whose program waits for its standard input to end."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    command = [sys.executable, "-m", "uvfio", "run", "-d", "edu", "--", "sh", "-c", "echo ready; read line"]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdin is not None
    assert run.stdout.readline() == "ready\n"
    yield str(run.pid)
    run.stdin.close()
    assert run.wait() == 1  # read met the end
    run.stdout.close()
    assert not list((tmp_path / "uvfio").iterdir()), "the socket goes with the machine"


@pytest.mark.usefixtures("machine")
def test_ctl_looks_into_the_iotlb() -> None:
    """Which is empty; docs/nested-translation.md has one that is not."""
    looked = uvfio("ctl", "iotlb", "0000:00:01.0")
    assert (looked.stdout, looked.stderr, looked.returncode) == ("tag  page  to  writable\n", "", 0)
    assert uvfio("ctl", "iotlb", "0000:00:01.0", "--json").stdout == '{"ok": true, "result": []}\n'


def test_ctl_finds_the_machine_and_changes_it(machine: str) -> None:
    listed = uvfio("ctl", "list").stdout.splitlines()
    assert listed[0].split() == ["bdf", "model", "driver", "group", "vfio", "open"]
    assert listed[2].split() == ["0000:00:01.0", "edu", "vfio-pci", "1", "vfio0", "0"]
    assert uvfio("ctl", "machines").stdout == f"{machine}\n"
    assert uvfio("ctl", "plug", "pcie-root-port,id=rp").stdout == "0000:00:02.0\n"
    assert uvfio("ctl", "-p", machine, "plug", "edu,bus=rp").stdout == "0000:01:00.0\n"
    assert uvfio("ctl", "reset", "0000:01:00.0").returncode == 0
    assert uvfio("ctl", "unplug", "0000:00:02.0").returncode == 0
    assert len(json.loads(uvfio("ctl", "list", "--json").stdout)["result"]) == 2
    refused = uvfio("ctl", "reset", "0000:00:01.0")
    assert (refused.returncode, refused.stderr) == (2, "uvfio: ENOTTY: 0000:00:01.0 has no reset that is its own\n")
    assert uvfio("ctl", "-v", "fault", "01.0", "dma", "2").stdout == "0000:00:01.0\n"
    assert uvfio("ctl", "reset", "09.0").stderr == "uvfio: there must be a device at 09.0\n"
    assert uvfio("ctl", "plug").stderr == "uvfio: plug must be given 1 argument(s), not 0\n"
    assert uvfio("ctl", "-p", "1", "list").stderr.startswith("uvfio: there must be a machine with process 1, but ")


def test_top_shows_devices_address_spaces_and_calls(machine: str) -> None:
    shown = uvfio("top", "-n", "1").stdout
    assert f"uvfio {machine}  sh -c echo ready; read line" in shown
    assert "0000:00:01.0  edu" in shown
    looks = [json.loads(line) for line in uvfio("top", "-n", "2", "-i", "0.01", "--json").stdout.splitlines()]
    assert [look["pid"] for look in looks] == [int(machine)] * 2
    assert looks[0]["rates"] == {}


def test_without_a_machine_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for words in (("ctl", "list"), ("top",)):
        done = uvfio(*words)
        assert (done.returncode, done.stderr) == (2, "uvfio: there must be a machine that runs: uvfio run ...\n")
    assert json.loads(uvfio("ctl", "machines", "--json").stdout) == []


def test_a_socket_that_a_killed_supervisor_left_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    left = directory() / "12345"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(left))
    assert running() == []
    assert not left.exists()


def test_a_directory_that_others_can_enter_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "uvfio").mkdir(mode=0o755)
    with pytest.raises(NoMachine, match=r"must be a directory that only we can enter$"):
        directory()
