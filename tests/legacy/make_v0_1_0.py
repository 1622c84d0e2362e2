"""Makes v0_1_0/*.tar.xz: what users of version 0.1.0 have on their disks.

    python -m tests.legacy.make_v0_1_0 [checkpoints training answers results study data]

Kept to say how the files were made: it runs on version 0.1.0 (commit 96feac7) only, from the root
of the repository, with CTXBENCH_DATA naming a folder with PaulGrahamEssays.json and punkt_tab, and
takes about three minutes of two cores. The archives are never made again: later versions open them.

Everything is written by the commands and functions that users call. Three things are not theirs:
where it was made and the machine's description are taken out of result files and logs, trained
weights of the bundled model (4 MB) out of the study, and interrupted states come from an exception
or a SIGKILL at a known place.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import yaml

import ctxbench
from ctxbench import extend, load_model, save_model
from ctxbench.assets import resolve_model, tasks_path
from ctxbench.cli import main
from ctxbench.validate.tiny import tiny_model, tiny_tokenizer, tokens

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ARCHIVES = HERE / "v0_1_0"

SMALL = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
METHODS = {
    "none": {},
    "pi": {"length": 64},
    "yarn": {"length": 64},
    "dynamic_ntk": {"length": 64},
    "clex": {"length": 64, "max_factor": 4},
    "landmark": {"length": 64, "block": 4, "top_k": 1, "trained_length": 16},
    "longlora": {"length": 64, "rank": 4},
    "self_extend": {"length": 64, "window": 8, "group": 8},
    "my_method": {"length": 64},  # a user's
}
INPUT = 48
"""Tokens of the fixed input: three windows; `none` reads one."""


# ------------------------------------------------------------------------ makers


def make_checkpoints() -> None:
    """Checkpoints of `save_model` and `ctxbench export`, and the logits of a fixed input."""
    _user_method()
    ids, logits = tokens(1, INPUT, seed=1), {}

    def keep(name: str, made: tuple) -> None:
        model, tokenizer = made
        save_model(model, tokenizer, name, trained_length=getattr(model, "trained_for", None))
        logits[name] = _some(model(ids if name != "none" else ids[:, :16]))

    for name, options in METHODS.items():
        model, tokenizer = tiny_model(**SMALL), tiny_tokenizer()
        extend(model, name, tokenizer=tokenizer, **options)
        if name == "clex":  # as if its equation had been trained
            draw = torch.Generator().manual_seed(2)
            model.base_model.rotary_emb.down.data.normal_(0, 0.3, generator=draw)
        if name not in ("none", "self_extend"):
            model.trained_for = options.get("trained_length") or 64
        keep(name, (model, tokenizer))
    tiny_model(**SMALL).save_pretrained("base")
    tiny_tokenizer().save_pretrained("base")
    # a model that others scaled: its method stated by the user
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    shutil.copytree("base", "linear")
    _edit_json(Path("linear/config.json"), rope_parameters=linear, max_position_embeddings=64)
    stated = {"adopt": True, "trained_length": 64, "original_length": 16, "factor": 4.0}
    keep("adopted", load_model("linear", "pi", **stated))
    keep("overridden", load_model("pi", override=True, factor=2.0, length=32))
    main(["export", "base", "exported", "--method", "yarn", "--length", "64"])
    from transformers import AutoModelForCausalLM

    logits["exported"] = _some(AutoModelForCausalLM.from_pretrained("exported")(ids))
    np.savez_compressed("expected.npz", ids=ids.numpy(), **logits)


def make_training() -> None:
    """A run of `ctxbench-train` that was interrupted, its token store, a finished LongLoRA run."""
    from ctxbench.train import cli, schedule

    tiny_model(**SMALL, num_hidden_layers=1, tie_word_embeddings=True).save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    draw = random.Random(3)
    with open("corpus.jsonl", "w", encoding="utf-8") as stream:
        for number in range(60):
            words = (f"w{draw.randrange(2, 50)}" for _ in range(draw.randrange(20, 90)))
            label = {"redpajama_set_name": f"RedPajama{('C4', 'Book')[number % 2]}"}
            stream.write(json.dumps({"text": " ".join(words), "meta": label}) + "\n")
    store = ["corpus.jsonl", "--tokenizer", "model", "--output", "store", "--tokens", "1000"]
    main(["data", "tokenize", *store, "--mix", "c4=0.6,book=0.4", "--long", "40"])
    recipe = {
        "model": "model", "data": ["store"], "method": "yarn", "length": 32, "tokens": 1024,
        "batch_size": 4, "micro_batch_size": 2, "lr": 0.01, "warmup": 2, "dtype": "fp32",
        "ema_decay": 0.9, "activation_checkpointing": "none", "save_every": 2,
        "keep_checkpoints": 1,
    }  # fmt: skip
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")

    def interrupting(config, step):
        if step == 5:
            raise KeyboardInterrupt
        return schedule.learning_rate(config, step)

    with patch("ctxbench.train.loop.learning_rate", interrupting):
        try:
            cli.run(["--recipe", "recipe.yaml", "--output", "run"])
        except KeyboardInterrupt:
            shutil.copytree("run", "interrupted")
    cli.run(["--recipe", "recipe.yaml", "--output", "run"])
    short = ["--recipe", "recipe.yaml", "--tokens", "384", "--ema-decay", "0"]
    cli.run([*short, "--method", "longlora", "--output", "longlora", "--save-every", "0"])
    ids = tokens(1, 32, seed=1)
    logits = {name: _some(load_model(name)[0](ids)) for name in ("run", "longlora")}
    lines = Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    np.savez_compressed("expected.npz", ids=ids.numpy(), losses=np.array(losses), **logits)
    shutil.rmtree("run")
    Path("interrupted").rename("run")


def make_answers() -> None:
    """The cache of answers of an evaluation of tasks of all three kinds, one of them a user's."""
    import transformers

    from ctxbench.models import ctxext

    shutil.copytree(ROOT / "examples/my_task", "my_task", ignore=shutil.ignore_patterns("__py*"))
    draw = random.Random(4)
    words = "the of and to in is was for on as with by that from at it an were".split()  # noqa: SIM905
    with open("text.jsonl", "w", encoding="utf-8") as stream:
        stream.write(json.dumps({"text": " ".join(draw.choices(words, k=2500))}) + "\n")
    asked = {
        "model_args": "pretrained=mini,method=yarn,factor=8,length=2048,cache=answers",
        "tasks": ["text_ppl_2k", "mini_manyshot_4shot", "my_recall_256"],
        "metadata": {"text_path": "text.jsonl", "ppl_stride": 256},
        "limit": 3,
    }
    told: list[dict] = []

    def spy(identity):
        told.append(identity)
        return original(identity)

    original = ctxext.fingerprint
    with patch("ctxbench.models.ctxext.fingerprint", spy):
        results = _evaluate(asked)
    (file,) = Path("answers").glob("*.sqlite")
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (rows,) = database.execute("SELECT count(*) FROM answers").fetchone()
    expected = {
        "asked": asked, "results": results, "file": file.name, "answers": rows, "identity": told[0],
        "torch": torch.__version__, "transformers": transformers.__version__,
        "ctxbench": ctxbench.__version__,
    }  # fmt: skip
    _write_json(Path("expected.json"), expected)


def make_results() -> None:
    """Result files of lm_eval, loose and as `ctxbench report compact` copies them."""
    lengths = ("128", "256", "512")
    _run(
        "lm_eval", "--model", "ctxext",
        "--model_args", "pretrained=mini,method=dynamic_ntk,length=512",
        "--tasks", ",".join(f"mini_needle_{length}" for length in lengths),
        "--limit", "6", "--log_samples", "--output_path", "results",
    )  # fmt: skip
    _scrub_results(Path("results"))
    main(["report", "compact", "results", "--out", "compact"])
    main(["report", "heatmap", "results", "--out", "out"])
    _write_json(Path("expected.json"), _digests(Path("out"), "*.csv"))
    shutil.rmtree("out")


STUDY = {
    "title": "Before",
    "model": "mini",
    "train": {"recipe": "mini", "tokens": 16384, "warmup": 2},
    "untrained_columns": ["needle"],
    "seeds": [0],
    "notes": ["A study of version 0.1.0."],
    "rows": {
        "base": {"label": "Base", "class": "frozen", "method": "none"},
        "pi": {
            "label": "PI", "class": "exact", "method": "pi", "options": {"factor": 4.0},
            "train": {},
        },
        "narrow": {
            "label": "Narrow", "class": "frozen", "method": "dynamic_ntk",
            "model_args": {"length": 300},
        },
    },
    "columns": {
        "perplexity": {
            "kind": "perplexity", "task": "mini_windows_{length}", "lengths": [128, 256],
            "metric": "ppl_overlap", "higher_is_better": False, "documents": 2,
        },
        "needle": {
            "kind": "needle", "task": "mini_needle_{length}", "lengths": [256, 512],
            "metric": "score", "documents": 4,
        },
        "manyshot": {
            "kind": "manyshot", "task": "mini_manyshot_{shots}shot", "lengths": [128],
            "shots": [4], "metric": "acc", "chance": 0.125, "documents": "0:320:80",
        },
    },
}  # fmt: skip


def make_study() -> None:
    """A study with cells done and failed, a finished run not yet divided, and a killed one."""
    from ctxbench.study.runner import Runner

    Path("study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
    command = ["study", "study.yaml", "--output", "folder", "--device", "cpu", "--processes", "1"]
    command += ["--no-report"]
    main([*command, "--rows", "pi,narrow"])
    collect = Runner._collect

    def interrupted(self, job):
        if job.columns[0].kind == "needle" and self._run_folder(job.row, None, job.name).is_dir():
            raise KeyboardInterrupt
        return collect(self, job)

    with patch.object(Runner, "_collect", interrupted):
        try:
            main([*command, "--rows", "base"])
        except KeyboardInterrupt:
            print("interrupted before the finished run was divided")
    before = _answers("folder")
    _kill_when(
        [sys.executable, "-m", "ctxbench.cli", *command, "--rows", "pi-untrained"],
        lambda: _answers("folder") > before + 2,
    )
    for part in ("folder/cells", "folder/runs"):
        _scrub_results(Path(part))
    for weights in Path("folder/train").rglob("*.safetensors"):
        weights.unlink()
    for file in Path("folder/answers").glob("*.sqlite"):
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    main(["report", "folder", "--out", "out", "--no-figures"])
    _write_json(Path("expected.json"), _digests(Path("out"), "*.md", "*.tex", "*.csv"))
    shutil.rmtree("out")


def make_data() -> None:
    """The cache of recipes of generated tasks."""
    for task in ("ruler_1k_vt", "ruler_1k_niah_multikey_2", "passkey_1k", "niah_1k"):
        main(["data", "build", task, "--tokenizer", "mini", "--samples", "10"])
    shutil.copytree(
        Path(os.environ["CTXBENCH_CACHE"], "recipes"), "cache/recipes",
        ignore=shutil.ignore_patterns("*.lock"),
    )  # fmt: skip
    for file in Path("cache/recipes").iterdir():  # where the bundled tokenizer was
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(resolve_model("mini"), "mini"), encoding="utf-8")


MAKERS: dict[str, Callable[[], None]] = {
    "checkpoints": make_checkpoints,
    "training": make_training,
    "answers": make_answers,
    "results": make_results,
    "study": make_study,
    "data": make_data,
}


# ------------------------------------------------------------------------ parts


def _some(output) -> np.ndarray:
    """Return the logits of every fourth position, `[length / 4, vocabulary]`."""
    return output.logits[0, 3::4].detach().numpy()


def _user_method() -> None:
    """A method file of a user, with the imports that 0.1.0's CONTRIBUTING taught."""
    Path("methods").mkdir()
    shutil.copy(ROOT / "examples/my_method.py", "methods/my_method.py")
    ctxbench.add_method_folder("methods")


def _evaluate(asked: dict) -> dict:
    """Return the results by task of an evaluation."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=[str(tasks_path()), "my_task"],
        include_defaults=False,
        metadata={"pretrained": "mini", **asked["metadata"]},
    )
    found = simple_evaluate(
        "ctxext", **{k: v for k, v in asked.items() if k != "metadata"}, task_manager=manager,
        log_samples=False, bootstrap_iters=0,
    )  # fmt: skip
    return json.loads(json.dumps(found["results"]))  # type: ignore[index]


def _run(*command: str) -> None:
    subprocess.run([sys.executable, "-m", *command], check=True)


def _kill_when(command: list[str], due: Callable[[], bool]) -> None:
    worker = subprocess.Popen(command, start_new_session=True)
    while not due() and worker.poll() is None:
        time.sleep(0.005)
    assert worker.poll() is None, "it ended before it could be killed"
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _answers(folder: str) -> int:
    """Return how many answers a study has kept."""
    total = 0
    for file in Path(folder, "answers").glob("*.sqlite"):
        with (
            suppress(sqlite3.OperationalError),  # it is being made
            sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database,
        ):
            total += database.execute("SELECT count(*) FROM answers").fetchone()[0]
    return total


def _digests(folder: Path, *patterns: str) -> dict[str, str]:
    """Return the sha256 of a folder's files by name."""
    files = sorted({file for pattern in patterns for file in folder.rglob(pattern)})
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _scrub_results(folder: Path) -> None:
    """Take the machine's description, and where the package was, out of result files."""
    for file in folder.rglob("results_*.json"):
        _edit_json(file, pretty_env_info="")
    for file in folder.rglob("*.json*"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(str(ROOT), "/opt/ctxbench"), encoding="utf-8")


def _edit_json(file: Path, **values) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    _write_json(file, {**content, **values})


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------- archives


@contextmanager
def _working_in(folder: Path):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _check_names_no_machine(file: Path, work: Path) -> None:
    names = [str(work), str(ROOT), str(Path.home()), os.uname().nodename + ".", "site-packages"]
    text = file.read_bytes().decode("utf-8", errors="replace")
    found = [name for name in names if name in text]
    assert not found, f"{file} says where it was made: {found}"


def _pack(folder: Path, archive: Path) -> None:
    """Write a folder into an archive that does not say when or by whom it was made."""
    for log in folder.rglob("*.log"):
        text = log.read_text(encoding="utf-8").replace(f"{folder}/", "")
        text = re.sub(r"/\S*/site-packages/|/\S*/lib/python[\d.]+/", "", text)
        log.write_text(text.replace(f"{ROOT}/", ""), encoding="utf-8")
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if "__pycache__" in name or name.endswith(("-shm", "-wal")):  # SQLite's, empty
                continue
            about = tarfile.TarInfo(name)
            about.type, about.mode = (tarfile.DIRTYPE, 0o755) if path.is_dir() else (b"0", 0o644)
            content = b""
            if path.is_file():
                _check_names_no_machine(path, folder)
                content = path.read_bytes()
            about.size = len(content)
            packed.addfile(about, io.BytesIO(content))
    print(f"{archive.name}: {archive.stat().st_size / 1024:.0f} kB")


def make(name: str) -> None:
    """Make one archive."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve() / "user"
        work.mkdir()
        os.environ["CTXBENCH_CACHE"] = str(Path(temporary) / "cache")
        with _working_in(work), torch.no_grad() if name == "checkpoints" else nullcontext():
            MAKERS[name]()
        _pack(work, ARCHIVES / f"{name}.tar.xz")


if __name__ == "__main__":
    assert ctxbench.__version__ == "0.1.0", "these are the files of version 0.1.0"
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or MAKERS:
        make(chosen)
