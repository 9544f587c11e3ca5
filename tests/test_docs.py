# SPDX-License-Identifier: GPL-2.0-only
"""What the documents show is what happens."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCTESTED = ["uvfio.runtime.schedule", "uvfio.runtime.errors", "uvfio.uapi.cstruct", "uvfio.cli.usage"]


@pytest.mark.parametrize("name", DOCTESTED)
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


@pytest.mark.live
def test_the_transcript_in_the_readme_is_what_make_run_prints():
    text = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- transcript: make run -->\n```text\n\$ uvfio run [^\n]*\n(.*?)```", text, re.DOTALL)
    assert block is not None
    command = [sys.executable, "-m", "uvfio", "run", "-d", "edu", "--", sys.executable, "examples/edu_client.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (block[1], "", 0)


def test_the_counts_in_the_readme_are_what_explore_prints():
    text = (ROOT / "README.md").read_text()
    words = re.search(r"\$ uvfio (explore [^\n]*)", text)
    assert words is not None
    command = [sys.executable, "-m", "uvfio", *words[1].split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    for line in done.stdout.splitlines():
        assert line.partition(" steps, ")[0] in text, line


def test_links_between_documents_lead_somewhere():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_files_named_in_the_design_exist():
    text = (ROOT / "docs/design.md").read_text()
    for path in re.findall(r"`(?:uvfio/)?((?:runtime|linux|live|explore|tests|docs)/[\w/.]+\.(?:py|md))`", text):
        assert (ROOT / "uvfio" / path).exists() or (ROOT / path).exists(), path
