# SPDX-License-Identifier: GPL-2.0-only
"""Every claim of the VFIO conformance probes, asked inside the machine."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from probe_machine import CONFORMANCE, run_probe

NAMES = {0: "OK", errno.EOPNOTSUPP: "EOPNOTSUPP"}


def as_claimed(wanted: Any, got: Any) -> Any:
    """*got* in the form of *wanted*, which may be the name of an errno."""
    if isinstance(got, tuple) and isinstance(wanted, str):
        got = got[0]
    if isinstance(got, int) and isinstance(wanted, str):
        got = NAMES.get(got) or errno.errorcode.get(got, str(got))
    return got


@pytest.mark.parametrize(("name", "claims"), [("vfio_group_container", 163), ("vfio_device", 203)])
def test_the_stack_answers_as_linux_does(name: str, claims: int) -> None:
    if not (CONFORMANCE / f"{name}.py").exists():
        pytest.skip(f"the probe {name} is not there: ../shared/conformance is missing")
    answers = run_probe(name)
    assert len(answers) == claims
    differ = [(claim, wanted, got) for _file, claim, wanted, got in answers if as_claimed(wanted, got) != wanted]
    assert not differ
