"""The whole grid of architectures, what trains, and methods."""

import os

import pytest

from tests.train.grid import cases
from tests.train.test_grid import check, name


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("CTXBENCH_WHOLE_GRID"),
    reason="360 trainings, ten minutes; set CTXBENCH_WHOLE_GRID to run them",
)
@pytest.mark.parametrize("case", cases(), ids=name)
def test_what_trained_is_what_every_reader_opens(tmp_path, case):
    check(tmp_path, case)
