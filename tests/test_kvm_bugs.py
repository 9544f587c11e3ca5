# SPDX-License-Identifier: GPL-2.0-only
"""What a patch says of itself is held against what is found."""

from __future__ import annotations

import dataclasses

import pytest

from uvfio.bugs import patch
from uvfio.bugs.catalogue import catalogue, check
from uvfio.bugs.patch import StalePatch

BUGS = {name: bug for name, bug in catalogue().items() if bug.scenario.startswith("kvm.")}


def test_a_fix_is_of_what_todays_linux_is_expected_to_have():
    fix = BUGS["D7"]
    assert fix.kind == "fix"
    wrong = check(dataclasses.replace(fix, finds="deadlock")).wrong
    assert wrong == "must be what kvm.second_bind expects, leak, not deadlock"
    backwards = dataclasses.replace(fix, kind="bug")
    assert check(backwards).wrong == "must find leak, not nothing"
    astray = dataclasses.replace(BUGS["D4"], scenario="kvm.second_bind", finds="leak")
    assert "must be silent without the bug" in check(astray).wrong


def test_a_kind_that_there_is_not(tmp_path):
    text = (patch.PACKAGE / "bugs/patches/D7.patch").read_text()
    path = tmp_path / "D7.patch"
    path.write_text(text.replace("Kind: fix", "Kind: feature"))
    with pytest.raises(StalePatch, match=r"^D7.patch must have Kind: bug or fix, not feature$"):
        patch.load(path)
