# SPDX-License-Identifier: GPL-2.0-only
"""What the documents show is what happens."""

import doctest
import importlib
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from uvfio.cli.usage import load_machine_file
from uvfio.linux.base.pci import pci_host
from uvfio.machine import PLATFORMS, Machine

ROOT = Path(__file__).resolve().parent.parent
DOCTESTED = ["uvfio.runtime.schedule", "uvfio.runtime.errors", "uvfio.uapi.cstruct", "uvfio.topology", "uvfio.cli.top"]


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


@pytest.mark.live
def test_the_transcript_of_a_nested_translation():
    text = (ROOT / "docs/nested-translation.md").read_text()
    block = re.search(r"```text\n\$ uvfio (run [^\n]*)\n(.*?)```", text, re.DOTALL)
    assert block is not None
    command = [sys.executable, "-m", "uvfio", *block[1].replace("python3", sys.executable).split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (block[2], "", 0)


def test_the_options_in_the_documentation_are_those_there_are():
    text = (ROOT / "docs/nested-translation.md").read_text()
    words = re.findall(r"^\| `([a-z0-9]+)`((?:,? ?`[a-z-]+=[a-z0-9]+`)*)", text, re.MULTILINE)
    documented = {(name, option) for name, options in words for option in re.findall(r"`([a-z-]+)=", options)}
    there_are = {
        (name, field.name.replace("_", "-"))
        for name, platform in PLATFORMS.items()
        if platform.options is not None
        for field in fields(platform.options)
    }
    assert documented == there_are


def test_the_counts_in_the_readme_are_what_explore_prints():
    text = (ROOT / "README.md").read_text()
    words = re.search(r"\$ uvfio (explore [^\n]*)", text)
    assert words is not None
    command = [sys.executable, "-m", "uvfio", *words[1].split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    for line in done.stdout.splitlines():
        assert line.partition(" steps, ")[0] in text, line


def test_the_machine_file_in_the_documentation_makes_what_it_says(tmp_path):
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/machines.md").read_text(), re.DOTALL)
    assert block is not None
    path = tmp_path / "machine.yaml"
    path.write_text(block[1])
    file = load_machine_file(str(path))
    machine = Machine(iommu=file.iommu)
    machine.boot(file.devices)
    found = machine.run(lambda: {bdf: dev.iommu_group.id for bdf, dev in pci_host().found.items()})
    assert set(re.findall(r"0000:\d\d:\d\d\.\d", block[1])) == {"0000:00:01.0", "0000:01:00.0"} <= set(found)
    assert list(found.values()).count(found["0000:01:00.0"]) == 1
    assert found["0000:00:05.0"] == found["0000:02:00.0"]
    assert found["0000:00:06.0"] == found["0000:03:01.0"] == found["0000:03:02.0"]


def test_links_between_documents_lead_somewhere():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_files_named_in_the_design_exist():
    text = (ROOT / "docs/design.md").read_text()
    for path in re.findall(r"`(?:uvfio/)?((?:runtime|linux|live|explore|tests|docs)/[\w/.]+\.(?:py|md))`", text):
        assert (ROOT / "uvfio" / path).exists() or (ROOT / path).exists(), path
