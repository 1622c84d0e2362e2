"""A pairwise sample of the grid; tests/hard/test_grid.py runs all of it."""

import pytest

from tests.train.grid import Case, outcome, pairwise


def name(case: Case) -> str:
    tied, padded = "tied" if case.tied else "untied", "padded" if case.padded else "exact"
    return f"{case.architecture}-{case.trains}-{tied}-{padded}-{case.method}".replace(" ", "")


def check(folder, case: Case) -> str:
    found = outcome(folder, case)
    if case.architecture == "gemma2":
        assert "final_logit_softcapping=30.0, which the chunked loss does not compute" in found
    else:
        assert found == "equal"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", pairwise(), ids=name)
def test_what_trained_is_what_every_reader_opens(tmp_path, case):
    check(tmp_path, case)
