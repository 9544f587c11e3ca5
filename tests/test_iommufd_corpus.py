# SPDX-License-Identifier: GPL-2.0-only
"""
67,047 answers of Linux 7.3.4 to random iommufd calls (docs/iommufd-corpus.md): the stack
gives the same ones, in process and to a real program.
"""

import json

import pytest
from corpus.checks import check_recording, check_replay, check_size
from corpus.replaying import Mismatch
from corpus.sessions import DATA
from corpus.shrink import shrink
from iommufd_corpus.__main__ import COMMANDS, MAKING
from iommufd_corpus.findings import FINDINGS, OTHERWISE
from iommufd_corpus.fuzz_input import Fuzzer
from iommufd_corpus.generate import THEMES
from iommufd_corpus.inprocess import answers_of, replay
from iommufd_corpus.replay import CORPUS

FEWEST = 45_000  # answers to a real program: without huge pages some sessions are left out


@pytest.fixture(scope="module")
def sessions():
    return CORPUS.load()


def test_the_corpus_is_as_large_as_it_says(sessions):
    check_size(sessions, 67_047, THEMES)


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_every_answer_in_process(sessions, theme):
    check_replay(sessions, theme, 19, replay)


@pytest.mark.live
def test_every_answer_to_a_real_program():
    mismatches, answers = COMMANDS.run_live(0, 1)
    assert not mismatches, "\n\n".join(map(str, mismatches))
    assert answers > FEWEST


def test_a_wrong_answer_is_noticed(sessions):
    session = {**sessions[0], "answers": [*sessions[0]["answers"][:10], "EXDEV", *sessions[0]["answers"][11:]]}
    found = replay(session)
    assert isinstance(found, Mismatch)
    assert found.index == 10
    assert 'Linux: "EXDEV"' in str(found)


@pytest.mark.parametrize("name", sorted(FINDINGS.keys() - OTHERWISE))
def test_what_linux_does_wrong_is_done_likewise(name):
    assert answers_of(FINDINGS[name]) == json.loads((DATA / "iommufd_findings.json").read_text())[name]["answers"]


def test_a_session_is_made_short():
    """Interesting is a DESTROY of id 2 after two IOASes were made."""
    calls = [["vmpin"], ["IOAS_ALLOC", [0, 0]], ["FAULT_QUEUE_ALLOC", [0, 0, 0]], ["sum"], ["DESTROY", [2]], ["sum"]]

    def judge(candidates):
        names = [[call[0] for call in candidate] for candidate in candidates]
        return ["DESTROY" in n and n.count("IOAS_ALLOC") + n.count("FAULT_QUEUE_ALLOC") == 2 for n in names]

    assert shrink(calls, judge, MAKING) == [["IOAS_ALLOC", [0, 0]], ["skip"], ["IOAS_ALLOC", [0, 0]], ["DESTROY", [2]]]


def test_what_the_fuzzer_has_kept():
    """Nothing but errnos comes of any input."""
    inputs = sorted((DATA / "fuzz_corpus").iterdir())
    assert len(inputs) > 50
    fuzzer = Fuzzer()
    for path in inputs:
        fuzzer.one_input(path.read_bytes())


@pytest.mark.oracle
def test_the_reference_kernel_answers_the_same_again(sessions):
    check_recording(CORPUS, sessions)
