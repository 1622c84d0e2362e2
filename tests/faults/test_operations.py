"""Every operation on files fails once: a full disk and a kill at each of them, nothing is lost."""

import json
import shutil
import time
from collections import Counter

import pytest
import torch

import ctxbench
from ctxbench.core.atomic_file import replacing
from ctxbench.core.errors import user_message
from ctxbench.core.protocol import cell_folder
from ctxbench.core.settings import read_settings
from ctxbench.models.answers import AnswerCache, answer_all
from ctxbench.models.export import export_checkpoint
from ctxbench.models.requests import ScoringRequest
from ctxbench.report.archive import unpack
from ctxbench.report.compact import compact
from ctxbench.report.write import write_report
from ctxbench.study import cells, folder
from ctxbench.study.loading import load_study
from ctxbench.study.runner import Runner
from ctxbench.tasks import digests, leaf_files, specs
from ctxbench.tasks.passkey import dataset as passkey
from ctxbench.train.checkpoint import find_checkpoint, save_checkpoint
from ctxbench.train.config import make_config
from ctxbench.train.export import export_model
from ctxbench.train.tokens.request import StoreRequest
from ctxbench.train.tokens.store import TokenStore
from ctxbench.train.tokens.store_writer import build_store
from tests.faults.injection import Killed, every_operation
from tests.report.synthetic import mini_plan, write_study
from tests.study.small import STUDY
from tests.study.small import write_study as write_small

MODES = ["full", "killed"]


def check_told(raised):
    """Assert that a user is told in a sentence; a kill, or what went on without, says nothing."""
    if raised is None or isinstance(raised, Killed):
        return
    message = user_message(raised)
    assert message, repr(raised)
    assert len(message) > 40


def files(root, *left_out):
    """Return the whole content of a folder by name; locks hold nothing."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name not in left_out
    }


def tell(name, mode, failed):
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(failed).items()))
    print(f"{name}, {mode}: {len(failed)} operations failed ({kinds})")


# ---------------------------------------------------------------------- tasks


@pytest.mark.parametrize("mode", MODES)
def test_samples_of_a_task(mode, tmp_path, monkeypatch):
    def build(root, faults=None):
        monkeypatch.setenv("CTXBENCH_CACHE", str(root))
        constants = leaf_files.constants_of("passkey_1k")["passkey_1k"]
        return passkey.get_specs(*constants.values(), {"tokenizer": "mini", "samples": 10})

    whole = build(tmp_path / "undisturbed")

    def look(root, raised):
        check_told(raised)
        for path in specs.files():
            specs.read(path)  # what is there is whole
        assert build(root).rows == whole.rows

    failed = every_operation(tmp_path, mode, lambda root: None, build, look)
    tell("samples", mode, failed)
    assert {"open", "write", "fsync", "lock"} <= {*failed}


@pytest.mark.parametrize("mode", MODES)
def test_task_files(mode, tmp_path, monkeypatch):
    leaves = {"mini": {f"t{n}": {"task": f"t{n}", "n": n} for n in range(3)}}

    def make(root, faults=None):
        monkeypatch.setenv("CTXBENCH_CACHE", str(root))
        return leaf_files._cached("tasks", "x", lambda: leaves)

    whole = files(make(tmp_path / "undisturbed"))

    def damaged(root):
        """A whole folder, one file of which was emptied."""
        (make(root) / "mini" / "t1.yaml").write_text("")

    def look(root, raised):
        check_told(raised)
        for found in (root / "tasks").glob("tasks-*"):
            if leaf_files._is_whole(found):
                assert files(found) == whole
        assert files(make(root)) == whole

    for prepare in (lambda root: None, damaged):
        place = tmp_path / prepare.__name__.strip("<>")
        place.mkdir()
        failed = every_operation(place, mode, prepare, make, look)
        tell("task files", mode, failed)
        assert len(failed) > 10


# -------------------------------------------------------------------- answers


@pytest.mark.parametrize("mode", MODES)
def test_answers(mode, tmp_path):
    requests = [ScoringRequest([1, 2, n], 1, 2) for n in range(6)]
    keys = [AnswerCache.key("score", n) for n in range(6)]
    computed: list[int] = []

    def compute(asked, wanted):
        for number in sorted(wanted):
            computed.append(number)
            yield number, number * 0.1

    def answer(root, faults=None):
        computed.clear()
        cache = AnswerCache(root / "answers", "m")
        try:
            return answer_all(cache, requests, keys, compute, "x", show=False)
        finally:
            cache.database.close()

    def look(root, raised):
        check_told(raised)
        lost = 1 if raised is not None and computed else 0
        before = len(computed)
        assert answer(root) == [n * 0.1 for n in range(6)]
        assert len(computed) <= 6 - before + lost  # what was kept is not computed again

    failed = every_operation(tmp_path, mode, lambda root: None, answer, look)
    tell("answers", mode, failed)
    assert {"connect", "sql", "commit"} <= {*failed}


# ---------------------------------------------------------------- token stores


@pytest.mark.parametrize("mode", MODES)
def test_token_stores(mode, tmp_path, tokenizer):
    corpus = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for number, file in enumerate(corpus):
        lines = [{"text": f"import m{n}\n" * 9, "meta": {"n": number}} for n in range(8)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    request = read_settings(StoreRequest, {"tokens": 500, "mode": "none"})

    def build(root, faults=None):
        return build_store(corpus, tokenizer, root / "store", request, shard_tokens=200)

    build(tmp_path / "undisturbed")
    whole = files(tmp_path / "undisturbed" / "store")

    def look(root, raised):
        check_told(raised)
        if (root / "store").is_dir():
            try:
                assert len(TokenStore(root / "store").tokens) == 500  # opened: it is all there
            except (ValueError, FileNotFoundError) as refused:
                check_told(refused)
        build(root)
        assert files(root / "store") == whole

    failed = every_operation(tmp_path, mode, lambda root: None, build, look)
    tell("token store", mode, failed)
    assert {"open", "write", "fsync", "replace"} <= {*failed}


# ----------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("mode", MODES)
def test_checkpoints_of_a_training(mode, tmp_path):
    def save(root, step):
        tensors = {"a": torch.full((3,), float(step)), "b": torch.full((2, 2), step * 2.0)}
        save_checkpoint(root, {"step": step}, tensors, keep=1)

    def look(root, raised):
        check_told(raised)
        found = find_checkpoint(root, lambda told: None)
        assert found is not None
        assert found.step in (1, 2)
        value = torch.zeros(3)
        found.tensors().load_into("a", value)
        assert value.tolist() == [float(found.step)] * 3
        save(root, 2)
        again = find_checkpoint(root, lambda told: None)
        assert again is not None
        assert again.step == 2
        assert not list(root.glob("*.tmp"))

    failed = every_operation(
        tmp_path, mode, lambda root: save(root, 1), lambda root, faults: save(root, 2), look
    )
    tell("checkpoint", mode, failed)
    assert {"tensors", "fsync", "rename", "mkdir"} <= {*failed}


def weight(model):
    return float(model.model.norm.weight.detach()[0])


@pytest.mark.parametrize("mode", MODES)
def test_results_of_a_training(mode, tmp_path):
    """Over an older result: another method, other weights."""
    old, tokenizer = ctxbench.load_model("mini", "pi", length=512)
    new, _ = ctxbench.load_model("mini", "yarn", length=1024)
    with torch.no_grad():
        old.model.norm.weight[0], new.model.norm.weight[0] = 1.5, 2.5
    whole = {("pi", 1.5), ("yarn", 2.5)}

    def export(root, model, length):
        settings = {"output": str(root / "run"), "length": length, "data": ["stdlib"]}
        export_model(make_config("mini", settings), model, tokenizer)

    def opened(root):
        model, _ = ctxbench.load_model(root / "run")
        return ctxbench.read_record(model.config).method, weight(model)

    def look(root, raised):
        check_told(raised)
        try:
            assert opened(root) in whole
        except (ValueError, FileNotFoundError) as refused:
            check_told(refused)
        export(root, new, 1024)
        assert opened(root) == ("yarn", 2.5)
        assert not (root / "run" / "export.tmp").exists()

    failed = every_operation(
        tmp_path,
        mode,
        lambda root: export(root, old, 512),
        lambda root, faults: export(root, new, 1024),
        look,
    )
    tell("result of a training", mode, failed)
    assert {"tensors", "replace"} <= {*failed}


@pytest.mark.parametrize("mode", MODES)
def test_exported_checkpoints(mode, tmp_path):
    def export(root, faults=None):
        export_checkpoint("mini", root / "out", "yarn", length=1024)

    export(tmp_path)
    whole = files(tmp_path / "out")

    def look(root, raised):
        check_told(raised)
        if (root / "out").exists():
            assert files(root / "out") == whole
        else:
            export(root)
        assert files(root) == {f"out/{name}": content for name, content in whole.items()}

    failed = every_operation(tmp_path, mode, lambda root: None, export, look)
    tell("export", mode, failed)
    assert {"write", "rename"} <= {*failed}


# --------------------------------------------------------------------- studies


class Instant:
    """Stands in for the launcher: commands end at once, and their files are there, uncounted."""

    def __init__(self, root, faults):
        self.root, self.faults, self.ended = root, faults, []

    def start(self, number, command, log, environment):
        given = dict(zip(command.arguments, command.arguments[1:], strict=False))
        with self.faults.pause():
            if "--tasks" not in given:
                (self.root / given["--output"]).mkdir(parents=True, exist_ok=True)
                (self.root / given["--output"] / "config.json").write_text("{}")
            else:
                self.evaluate(given)
        self.ended.append((number, 0))

    def evaluate(self, given):
        place = self.root / given["--output_path"] / "mini"
        place.mkdir(parents=True)
        content = {"results": {}, "configs": {}, "config": {"model_args": given["--model_args"]}}
        for task in given["--tasks"].split(","):
            content["results"][task] = {"score,none": 0.5}
            sample = {"doc_id": 0, "doc": {"length": 1}, "metrics": ["score"], "score": 0.5}
            (place / f"samples_{task}_2020.jsonl").write_text(json.dumps(sample) + "\n")
        (place / "results_2020.json").write_text(json.dumps(content))

    def wait(self):
        return self.ended.pop(0)


@pytest.mark.parametrize("mode", MODES)
def test_studies(mode, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    rows = {name: STUDY["rows"][name] for name in ("base", "pi")}
    columns = {"needle": STUDY["columns"]["needle"]}
    study = load_study(write_small(tmp_path, seeds=[0], rows=rows, columns=columns))
    places = [
        cell_folder(row.name, seed, column.name)
        for row in study.rows
        for seed in row.seeds
        for column in study.columns
    ]

    def run(root, faults):
        folder.prepare(study, root / "study")
        Runner(study, root / "study", [{}]).run(Instant(root / "study", faults))

    def undisturbed(root):
        from tests.faults.injection import Faults

        run(root, Faults(root, 0, mode))
        return files(root / "study")

    (tmp_path / "undisturbed" / "study").mkdir(parents=True)
    whole = undisturbed(tmp_path / "undisturbed")

    def look(root, raised):
        check_told(raised)
        for place in places:
            cell = root / "study" / place
            if (cell / "cell.json").exists():  # taken as whole
                found = {f"{place}/{name}": content for name, content in files(cell).items()}
                assert found.items() <= whole.items()
                assert len(found) == sum(name.startswith(f"{place}/") for name in whole)
        assert undisturbed(root) == whole

    failed = every_operation(tmp_path, mode, lambda root: (root / "study").mkdir(), run, look)
    tell("study", mode, failed)
    assert {"rename", "write", "fsync"} <= {*failed}


@pytest.mark.parametrize("mode", MODES)
def test_cells_that_failed_and_are_measured(mode, tmp_path):
    study = load_study(write_small(tmp_path, seeds=[0]))
    note = {"row": "base", "seed": None, "column": "needle", "command": "x", "seconds": 1.0}
    failed_note = cells.read_note({**note, "status": "failed", "reason": "r"}, "x")
    done_note = cells.read_note({**note, "status": "done", "reason": None}, "x")
    place = cell_folder("base", None, "needle")
    assert study.rows

    def look(root, raised):
        check_told(raised)
        found = cells.note_of(root / place)
        if found is not None and found.status == "done":
            assert (root / place / "results_1.json").read_text() == "{}"
        cells.clean(root)
        cells.write_cell(root, done_note, {"results_1.json": "{}"})
        assert sorted(p.name for p in (root / place).iterdir()) == ["cell.json", "results_1.json"]
        assert [p.name for p in (root / place).parent.iterdir()] == ["needle"]

    failed = every_operation(
        tmp_path,
        mode,
        lambda root: cells.write_cell(root, failed_note, {"old": "x"}),
        lambda root, faults: cells.write_cell(root, done_note, {"results_1.json": "{}"}),
        look,
    )
    tell("cell", mode, failed)
    assert len(failed) >= 10


# --------------------------------------------------------------------- reports


def small_plan():
    plan = mini_plan(lengths=(128, 256), seeds=(0,))
    plan["columns"] = [c for c in plan["columns"] if c["kind"] in ("perplexity", "needle")]
    plan["rows"] = plan["rows"][:2]
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_reports(mode, tmp_path):
    """Over an older report of other results: each file is the old one or the new one, whole."""
    plan = small_plan()
    first = write_study(tmp_path / "first", plan, samples=4)
    second = write_study(tmp_path / "second", plan, samples=5)
    old = {p.name: p for p in write_report(first, tmp_path / "old", figures=False)}
    assert old
    before, after = files(tmp_path / "old"), None
    write_report(second, tmp_path / "new", figures=False)
    after = files(tmp_path / "new")

    def look(root, raised):
        check_told(raised)
        for name, content in files(root / "report").items():
            if not name.split("/")[-1].startswith("."):  # what a kill left is under another name
                assert content in (before.get(name), after.get(name)), name
        write_report(second, root / "report", figures=False)
        assert files(root / "report") == after

    failed = every_operation(
        tmp_path,
        mode,
        lambda root: shutil.copytree(tmp_path / "old", root / "report"),
        lambda root, faults: write_report(second, root / "report", figures=False),
        look,
    )
    tell("report", mode, failed)
    assert {"open", "write", "replace"} <= {*failed}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_archives(mode, tmp_path):
    study = write_study(tmp_path / "study", small_plan(), samples=2)
    archive, _ = compact([study], tmp_path / "archive")
    unpack(archive, tmp_path / "unpacked")
    whole = files(tmp_path / "unpacked")

    def look(root, raised):
        check_told(raised)
        if (root / "out").exists():
            assert files(root / "out") == whole
        else:
            unpack(archive, root / "out")
        assert files(root) == {f"out/{name}": content for name, content in whole.items()}

    failed = every_operation(
        tmp_path, mode, lambda root: None, lambda root, faults: unpack(archive, root / "out"), look
    )
    tell("unpacked archive", mode, failed)

    def look_again(root, raised):
        check_told(raised)
        assert compact([study], root)[0].read_bytes() == archive.read_bytes()
        assert [*files(root)] == [archive.name]

    failed = every_operation(
        tmp_path / "archive", mode, lambda root: None, lambda root, _: compact([study], root),
        look_again,
    )  # fmt: skip
    tell("archive", mode, failed)
    assert {"open", "write", "replace"} <= {*failed}


# ---------------------------------------------------------------------- fetched


@pytest.mark.parametrize("mode", MODES)
def test_records_of_what_was_fetched(mode, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(b"x" * 100)
    digest = digests.file_sha256(data)

    def record(root, faults=None):
        return digests.check_digest(root, "new", data, None, "here")

    def prepare(root):
        digests.check_digest(root, "old", data, None, "here")

    def look(root, raised):
        check_told(raised)
        assert record(root) == digest
        found = json.loads((root / digests.RECORD).read_text())
        assert {name: entry["sha256"] for name, entry in found.items()} == dict.fromkeys(
            ("new", "old"), digest
        )

    failed = every_operation(tmp_path, mode, prepare, record, look)
    tell("record", mode, failed)
    assert {"lock", "open", "write", "replace"} <= {*failed}


def test_the_injection_itself(tmp_path):
    """A writer that is careless is caught; the careful one is not."""

    def careless(root, faults=None):
        (root / "f").write_text("new" * 100)

    def careful(root, faults=None):
        with replacing(root / "f") as stream:
            stream.write(b"new" * 100)

    def look(root, raised):
        assert (root / "f").read_text() in ("old", "new" * 100)

    for mode in MODES:
        place = tmp_path / mode
        place.mkdir()
        with pytest.raises(AssertionError, match=f"{mode}, operation"):
            every_operation(place, mode, lambda r: (r / "f").write_text("old"), careless, look)
        (place / "x").mkdir()
        failed = every_operation(
            place / "x", mode, lambda r: (r / "f").write_text("old"), careful, look
        )
        assert {"open", "write", "fsync", "replace"} <= {*failed}
