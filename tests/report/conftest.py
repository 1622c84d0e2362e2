"""Study folders, made once for a worker."""

import pytest

from tests.report.synthetic import mini_plan, paper_plan, write_study

FAILED = [("landmark", 1, "needle_2k"), ("clex", "ppl_4k")]
MISSING = [("longlora", "needle_4k"), ("yarn", 0, "manyshot_64")]


@pytest.fixture(scope="session")
def mini_study(tmp_path_factory):
    """A miniature with two failed and two missing cells."""
    folder = tmp_path_factory.mktemp("mini") / "study"
    return write_study(folder, mini_plan(), samples=40, failed=FAILED, missing=MISSING)


@pytest.fixture(scope="session")
def paper_study(tmp_path_factory):
    """All cells of the paper's tables, one seed."""
    folder = tmp_path_factory.mktemp("paper") / "study"
    return write_study(folder, paper_plan(seeds=(0,)), samples=8)
