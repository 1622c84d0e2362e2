"""What a study shows: a live display in a terminal, lines elsewhere and in a log."""

import io
import re
import time

import pytest
from rich.console import Console

from ctxbench.core.protocol import Column
from ctxbench.study.display import Display, Running, State, duration, share_done
from ctxbench.study.time_left import READ, TRAIN, TimeLeft, tokens_to_read
from tests.study.small import run, write_study

STEP = "step 40/160  loss 2.5  900 tokens/s  1.2 GiB  75 s left"


def column(name, length, requests):
    return Column(
        name=name, kind="needle", length=length, tasks=("t",), metric="score",
        higher_is_better=True, requests=requests,
    )  # fmt: skip


def shown(tmp_path, terminal, **environment):
    """Return what a small study shows, and its log."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200, highlight=False)
    display = Display(tmp_path / "study.log", console, every=0.1)
    run(tmp_path / "out", write_study(tmp_path), display=display, STUB_SECONDS="1", **environment)
    return stream.getvalue(), (tmp_path / "study.log").read_text()


def test_without_a_terminal_there_are_lines_in_the_log_and_on_the_stream(tmp_path):
    text, log = shown(tmp_path, terminal=False)
    lines = [re.sub(r"^\S+ ", "", line) for line in log.splitlines()]
    assert lines == text.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", log)
    ticks = [line for line in lines if "; now: " in line]
    assert re.match(
        r"0/18 cells, time left not known yet; now: PI seed 0: train, \d s; PI seed 1", ticks[0]
    )
    assert any(re.search(r"cells, about \d+ s left; now: .*last: ", line) for line in ticks)
    ends = [line for line in lines if line.startswith("[")]
    assert len(ends) == 4 + 6  # trainings, and one run a row and seed
    assert ends[-1].startswith("[18/18 cells] ")
    scored = [end for end in ends if re.search(r"3 columns: done .*\(needle_256 0\.\d+\)$", end)]
    assert len(scored) == 6


def test_a_terminal_has_a_live_display_and_the_log_its_lines(tmp_path):
    text, log = shown(tmp_path, terminal=True)
    assert "\x1b[" in text
    assert re.search(r"\d+/18 cells, (about \d+ s|time left)", text)
    assert re.search(r"  now   PI seed \d: train, \d s", text)
    assert re.search(r"  last  .*done in \d s", text)
    assert "; now: PI seed 0: train" in log
    assert "; now: " not in text  # what is live is not said again


def test_a_failed_command_is_said_and_counted(tmp_path):
    text, _ = shown(tmp_path, terminal=False, STUB_BAD_TRAINING="pi")
    assert re.search(r"\[\d+/18 cells\] PI seed 0: train: ended with status 1 in \d s", text)
    assert re.search(r"\d+/18 cells, 6 failed, ", text)


def test_a_line_has_the_last_step_of_a_training(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(f"Model mini\nstep 32/160  loss 3\n{STEP}\nsaved\n")
    running = [Running("PI seed 0: train", log, 100.0)]
    state = State(3, 1, 1, running, 600.0, True, 100.0, "Base: done")
    assert state.line(130.0) == (
        "1/3 cells, 1 failed, about 10 min left; now: PI seed 0: train, 30 s: "
        f"{' '.join(STEP.split())}; last: Base: done"
    )
    assert share_done(log) == 0.25
    assert share_done(tmp_path / "none.log") is None
    state.left_whole = False
    assert state.summary(130.0) == "1/3 cells, 1 failed, more than 10 min left"
    assert Running("x", tmp_path / "none.log", 0.0).line(5.0) == "x, 5 s"


def test_time_left_is_learned_by_kind_of_work():
    learned = TimeLeft()
    assert learned.left({TRAIN: 1}, [], 2) == (0, False)
    learned.learn({TRAIN: 1}, 100.0)
    assert learned.left({TRAIN: 2, READ: 0.0}, [], 2) == (pytest.approx(100), True)
    assert learned.left({TRAIN: 2, READ: 10.0}, [], 2) == (pytest.approx(100), False)
    learned.learn({READ: 1000.0}, 10.0)
    running = [({TRAIN: 1}, 30.0, None), ({TRAIN: 1}, 130.0, None)]
    left, whole = learned.left({TRAIN: 2, READ: 2000.0}, running, 2)
    assert (left, whole) == (pytest.approx((200 + 20 + 70) / 2), True)


def test_a_training_that_says_how_far_it_is_tells_of_the_others():
    running = [({TRAIN: 1}, 60.0, 0.25), ({TRAIN: 1}, 60.0, 0.5)]
    left, whole = TimeLeft().left({TRAIN: 1, READ: 5.0}, running, 2)
    assert (left, whole) == (pytest.approx((240 + 180 + 60) / 2), False)


def test_tokens_to_read_count_prompts_by_their_length():
    columns = [column("a", 256, 10), column("b", 4096, 0), column("c", None, 2)]
    assert tokens_to_read(columns, 1024) == 10 * 256 + 4096 + 2 * 1024


def test_nothing_is_shown_without_a_log(capsys):
    with Display(every=0.01) as display:
        display.say("not shown")
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


def test_durations_have_the_unit_that_fits():
    assert [duration(s) for s in (5, 99, 100, 3600, 11100)] == [
        "5 s", "99 s", "2 min", "60 min", "3 h 5 min",
    ]  # fmt: skip
