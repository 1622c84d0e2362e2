"""Two processes at once: one waits, or is refused in a sentence; nothing is mixed."""

import json
import multiprocessing
import time

import pytest

from ctxbench.cli import main
from ctxbench.core.folder_lock import only_process
from ctxbench.core.protocol import cell_folder, read_note
from ctxbench.models.answers import AnswerCache
from ctxbench.report.compact import compact
from ctxbench.report.study_results import load_study
from ctxbench.report.write import write_report
from ctxbench.study import cells
from ctxbench.tasks import specs
from ctxbench.train.tokens.store import TokenStore
from tests.report.synthetic import mini_plan, write_cell
from tests.study.small import write_study as write_small

FORK = multiprocessing.get_context("fork")


def at_once(function, *places, count=2):
    """Run a function in several processes, each with its number; return what each gave."""
    barrier, answers = FORK.Barrier(count), FORK.Queue()

    def child(number):
        barrier.wait()
        try:
            answers.put((number, function(number, *places)))
        except BaseException as error:
            answers.put((number, f"{type(error).__name__}: {error}"))

    children = [FORK.Process(target=child, args=(number,)) for number in range(count)]
    for each in children:
        each.start()
    found = dict(answers.get(timeout=120) for _ in children)
    for each in children:
        each.join()
    return [found[number] for number in range(count)]


def test_two_token_stores_in_one_folder(tmp_path, capfd):
    file = tmp_path / "a.jsonl"
    lines = ({"text": f"import module_{n}\n" * 20} for n in range(4000))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["data", "tokenize", str(file), "--tokenizer", "mini", "--tokens", "100k"]
    command += ["--mode", "none", "--output"]
    assert main([*command, str(tmp_path / "alone")]) == 0
    statuses = at_once(lambda number: main([*command, str(tmp_path / "both")]))
    said = capfd.readouterr().err
    # the second is refused, or came when the first had finished, which is to be done already
    assert sorted(statuses) in ([0, 2], [0, 0])
    assert ("Another ctxbench data tokenize writes to" in said) == (2 in statuses)
    assert "Traceback" not in said
    alone, both = TokenStore(tmp_path / "alone"), TokenStore(tmp_path / "both")
    assert (alone.tokens[:] == both.tokens[:]).all()
    with only_process(tmp_path / "both", "x"):
        assert main([*command, str(tmp_path / "both")]) == 2
    assert "Another ctxbench data tokenize writes to" in capfd.readouterr().err


def test_two_studies_in_one_folder(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["study", write_small(tmp_path), "--output", str(out), "--no-report"]
    with only_process(out, "x"):
        assert main(command) == 2
    assert "Another `ctxbench study` writes to" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_two_builds_of_one_task_make_it_once(tmp_path):
    """The second waits for the first."""

    def build(number):
        def make():
            time.sleep(0.3)
            return [{"n": number}], {}

        return specs.get({"leaf": "x_1k"}, make).rows

    first, second, third = at_once(build, count=3)
    assert first == second == third
    assert len(list(specs.files())) == 1


def test_two_processes_keep_answers_in_one_file(tmp_path):
    def keep(number):
        cache = AnswerCache(tmp_path, "m")
        for n in range(150):
            cache.put([(f"{number} {n}", n), ("both", number)])
        return [cache.get(f"{number} {n}") for n in range(150)]

    assert at_once(keep, count=3) == [[*range(150)]] * 3
    cache = AnswerCache(tmp_path, "m")
    assert [cache.get(f"{k} {n}") for k in range(3) for n in range(150)] == [*range(150)] * 3
    assert cache.get("both") in (0, 1, 2)


@pytest.fixture
def plan():
    plan = mini_plan(lengths=(128, 256), seeds=(0,))
    plan["columns"] = [c for c in plan["columns"] if c["kind"] == "needle"]
    plan["rows"] = plan["rows"][:2]
    return plan


def test_a_report_while_cells_are_written(tmp_path, plan):
    """Each cell is missing, failed or done, as a whole; the report is written all the same."""
    root = tmp_path / "study"
    root.mkdir()
    (root / "study.json").write_text(json.dumps(plan))
    row, column = plan["rows"][0], plan["columns"][0]
    note = {"row": row["name"], "seed": None, "column": column["name"], "command": None}
    write_cell(tmp_path, plan, row, None, column, 5)
    content = {file.name: file.read_text() for file in tmp_path.glob("*_*.json*")}
    states = [
        (read_note({**note, "status": "failed", "reason": "r"}, "x"), {}),
        (read_note({**note, "status": "done", "reason": None}, "x"), content),
    ]
    finished = FORK.Event()

    def write(seconds=6.0):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            cells.write_cell(root, *states[0])
            cells.write_cell(root, *states[1])
        finished.set()

    def read():
        seen = set()
        while not finished.is_set():
            cell = load_study(root).cells[row["name"], None, column["name"]]
            assert cell.status in ("missing", "failed", "done"), cell.reason
            if cell.status == "done":
                assert [len(leaf) for leaf in cell.leaves.values()] == [5]
            seen.add(cell.status)
        write_report(root, figures=False)
        return sorted(seen)

    _, seen = at_once(lambda number: (write, read)[number]())
    assert "done" in seen, seen
    assert "failed" in seen


def test_what_is_being_written_is_no_result(tmp_path, plan):
    root = tmp_path / "study"
    place = root / cell_folder("base", None, "x")
    building = cells.partial(place)
    building.mkdir(parents=True)
    (root / "study.json").write_text(json.dumps(plan))
    (building / "results_1.json").write_text('{"results": {}')
    (building / "cell.json").write_text("{")
    assert all(cell.status == "missing" for cell in load_study(root).cells.values())
    with pytest.raises(FileNotFoundError, match="No results_"):
        compact([root], tmp_path / "out")
