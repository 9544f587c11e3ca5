# SPDX-License-Identifier: GPL-2.0-only
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uvfio.runtime.schedule import decode, encode


@given(st.lists(st.sampled_from("ABCZ") | st.integers(0, 12), min_size=1))
def test_what_is_written_is_read_back(schedule):
    assert decode(encode(schedule)) == schedule


def test_a_person_can_read_it():
    assert encode(["A", "A", "A", "B", "A", "A"]) == "A3.B.A2"


@pytest.mark.parametrize("text", ["", "a3", "A0", "A.", "3", "A3 B", "~"])
def test_what_is_no_schedule_says_so(text):
    with pytest.raises(ValueError, match=re.escape("a schedule must look like A3.B.~1.A2, and ")):
        decode(text)
