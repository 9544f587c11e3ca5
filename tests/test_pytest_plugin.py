# SPDX-License-Identifier: GPL-2.0-only
"""Twenty lines of somebody's own, and the report in a failing test; as the document says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from uvfio.cli.main import main

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/write-a-scenario.md"


@pytest.fixture
def example(tmp_path):
    """The document's example, in a file of its own."""
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert code is not None
    file = tmp_path / "test_mine.py"
    file.write_text(code[1])
    return file


def run_pytest(file):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "uvfio.pytest_plugin", file.name]
    # By name, whether the package is installed or only lies there.
    env = {**os.environ, "PYTHONPATH": str(DOCUMENT.parent.parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=file.parent, env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout


def test_an_outcome_that_is_never_seen_fails(example):
    status, out = run_pytest(example)
    assert status == 1
    assert "never seen, so the scenario has lost its teeth: [('unplugged', 'EBUSY')]" in out


def test_a_proven_scenario_passes(example):
    example.write_text(example.read_text().replace('    ("unplugged", "EBUSY"),\n', ""))
    assert run_pytest(example)[0] == 0


def test_a_finding_is_the_report_and_its_command_works(example, capsys):
    example.write_text(
        example.read_text().replace('    ("unplugged", "EBUSY"),\n', "").replace('    ("unplugged", "ENOENT"),\n', "")
    )
    status, out = run_pytest(example)
    assert status == 1
    assert "uvfio: BUG: outcome" in out
    assert "CPU0 (A)" in out
    command = re.search(r"uvfio (replay \S+::test_open_against_unplug \S+)", out)
    assert command is not None
    assert main(command[1].split()) == 1
    assert "uvfio: BUG: outcome" in capsys.readouterr().out


def test_what_is_no_scenario_says_so(example, capsys):
    assert main(["explore", f"{example}::nothing"]) == 2
    assert "must have a scenario 'nothing'; it has test_open_against_unplug" in capsys.readouterr().err
