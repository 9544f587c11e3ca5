# SPDX-License-Identifier: GPL-2.0-only
"""The command line is a contract: exit statuses, one line for bad input, JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from uvfio.cli.main import VERBS, main, parser
from uvfio.devices.registry import MODELS, PARENTS

ROOT = Path(__file__).resolve().parent.parent

KNOWN = ", ".join(sorted([*MODELS, *PARENTS]))


def uvfio(*words, **kwargs):
    return subprocess.run([sys.executable, "-m", "uvfio", *words], capture_output=True, text=True, **kwargs)


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["run"], 125, "uvfio: there must be a program to run, after --"),
        (
            ["run", "-d", "nope", "--", "true"],
            125,
            f"uvfio: the model must be one of {KNOWN}, or FILE.py, not 'nope'",
        ),
        (
            ["run", "-d", "edu@1.0", "--", "true"],
            125,
            "uvfio: -d edu@1.0: the address must look like 0000:00:01.0, or 01.0, not '1.0'",
        ),
        (["run", "-d", "edu,x", "--", "true"], 125, "uvfio: -d edu,x: an option must be key=value, not 'x'"),
        (["run", "-d", "edu,colour=red", "--", "true"], 125, "uvfio: the model edu must not be given colour"),
        (
            ["run", "-d", "edu", "-d", "edu@0000:00:01.0", "--", "true"],
            125,
            "uvfio: the address must be free, and 0000:00:01.0 is taken",
        ),
        (
            ["run", "-d", "edu,driver=e1000", "--", "true"],
            125,
            "uvfio: the driver must be vfio-pci or none, not 'e1000'",
        ),
        (["run", "--", "/no/such/program"], 125, "uvfio: cannot run /no/such/program: No such file or directory"),
        (
            ["run", "-m", "/no/such/file", "--", "true"],
            125,
            "uvfio: the machine file must be readable: /no/such/file: No such file or directory",
        ),
        (["explore", "nope"], 2, None),
        (["replay", "vfio.two_openers", "a3"], 2, "uvfio: a schedule must look like A3.B.~1.A2, and 'a3' does not"),
        (
            ["devices", "show", "nope"],
            2,
            f"uvfio: the model must be one of {KNOWN}, or FILE.py, not 'nope'",
        ),
        (["fly"], 2, None),
    ],
)
def test_bad_input_gets_one_line(words, status, line, capsys):
    assert main(words) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    if line is not None:
        assert captured.err == line + "\n"


@pytest.mark.parametrize(
    "text", ["", "devices: 3", "devices: [3]", "devices: [{at: x}]", "a: [", "devices: []\nmore: 1"]
)
def test_a_bad_machine_file_gets_one_line(text, tmp_path, capsys):
    file = tmp_path / "machine.yaml"
    file.write_text(text)
    assert main(["run", "-m", str(file), "--", "true"]) == 125
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("verb", [verb.__name__.rpartition(".")[2] for verb in VERBS])
def test_help_has_one_real_example(verb, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args([verb, "--help"])
    assert f"example: uvfio {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["explore", "kvm.add_vs_de"],
            "the scenario must be one that 'uvfio explore' lists, not 'kvm.add_vs_de'; did you mean kvm.add_vs_del?",
        ),
        (["replay", "x", "A"], "the scenario must be one that 'uvfio explore' lists, not 'x'"),
        (["explore", "--bug", "?"], "the bug must be one that 'uvfio bugs' lists, not '?'"),
        (["bugs", "show", "?"], "the bug must be one that 'uvfio bugs' lists, not '?'"),
    ],
)
def test_an_unknown_name_is_one_line_that_says_where_the_known_ones_are(argv, line, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"uvfio: {line}"


def test_explore_tells_how_far_its_word_goes(capsys):
    assert main(["explore", "vfio.two_openers"]) == 0
    assert "vfio.two_openers: complete: " in capsys.readouterr().out
    assert main(["explore", "vfio.two_openers", "--policy", "random", "--runs", "5"]) == 3
    assert "vfio.two_openers: sampled: 5 classes" in capsys.readouterr().out
    assert main(["explore", "vfio.two_openers", "--policy", "dfs", "--budget", "0.05"]) == 3
    assert "vfio.two_openers: budget ended: " in capsys.readouterr().out


def test_explore_json(capsys):
    assert main(["explore", "vfio.two_openers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "complete"
    assert found["finding"] is None
    assert set(found["outcomes"]) == {"opened opened", "opened EBUSY", "EBUSY opened"}


def test_replay_shows_the_interleaving(capsys):
    assert main(["replay", "vfio.two_openers", "A9.B2"]) == 0
    out = capsys.readouterr().out
    assert "CPU0 (A)" in out
    assert "lock(vfio_group.group_lock)" in out
    assert all(len(line) < 80 for line in out.splitlines())


def test_devices_json_has_every_register(capsys):
    assert main(["devices", "show", "edu", "--json"]) == 0
    edu = json.loads(capsys.readouterr().out)
    assert (edu["vendor"], edu["device"]) == ("1234", "11e8")
    assert "factorial" in {register["name"] for register in edu["registers"]}


@pytest.mark.live
@pytest.mark.parametrize(
    ("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_run_has_the_programs_own_status(command, status):
    done = uvfio("run", "-d", "edu", "--", "sh", "-c", command)
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.live
def test_trace_decodes_calls(tmp_path):
    script = (
        "import os, fcntl; g = os.open('/dev/vfio/1', 2); b = bytearray(b'\\10' + bytes(7)); fcntl.ioctl(g, 0x3B67, b)"
    )
    text, lines = tmp_path / "trace", tmp_path / "trace.json"
    assert uvfio("run", "-d", "edu", "--trace", str(text), "--", sys.executable, "-c", script).returncode == 0
    assert "</dev/vfio/1>, VFIO_GROUP_GET_STATUS, {argsz=8, flags=VIABLE}) = 0" in text.read_text()
    uvfio("run", "-d", "edu", "--trace", str(lines), "--json", "--", sys.executable, "-c", script)
    calls = [json.loads(line) for line in lines.read_text().splitlines()]
    assert any(call["args"].get("request") == "VFIO_GROUP_GET_STATUS" and call["result"] == 0 for call in calls)


@pytest.mark.live
def test_doctor_says_that_run_works(capsys):
    assert main(["doctor"]) == 0
    assert "a program can be supervised" in capsys.readouterr().out


@pytest.mark.live
def test_run_v_shows_the_kernels_log():
    """A DMA to an address that nothing is mapped at is reported as Linux reports it."""
    done = uvfio("run", "-v", "-d", "edu", "--", sys.executable, str(ROOT / "tests/clients/stray_dma.py"))
    assert done.returncode == 0, done.stderr
    assert "uvfio: DMAR: [DMA Read NO_PASID] Request device [00:01.0] fault addr 0x100000 " in done.stderr


SELFTEST = """
import fcntl, os, struct
iommu = os.open("/dev/iommu", os.O_RDWR)
fcntl.ioctl(iommu, 0x3B81, bytearray(struct.pack("<3I", 12, 0, 0)))
fcntl.ioctl(iommu, 0x3BA0, bytearray(struct.pack("<4I56x", 72, 12, 1, 0)))
"""


@pytest.mark.live
def test_trace_of_the_selftests_call(tmp_path):
    trace = tmp_path / "trace"
    done = uvfio("run", "--iommufd-test", "--trace", str(trace), "--", sys.executable, "-c", SELFTEST)
    assert done.returncode == 0, done.stderr
    line = next(line for line in trace.read_text().splitlines() if "IOMMU_TEST_CMD" in line)
    assert line.endswith(
        "</dev/iommu>, IOMMU_TEST_CMD, MOCK_DOMAIN_FLAGS, 1<ioas>, "
        "{out_stdev_id=2, out_hwpt_id=4, out_idev_id=3, dev_flags=0}) = 0"
    )
    refused = uvfio("run", "--", sys.executable, "-c", SELFTEST)
    assert "Inappropriate ioctl" in refused.stderr, "without the option it is not there"
