"""The methods with trained parts, saved and reopened, through a task of every family."""

import json
import math
import random
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from ctxbench import load_model, save_model
from ctxbench.core.assets import resolve_model
from ctxbench.tasks.leaf_files import tasks_path

METHODS = {
    "clex": {"max_factor": 16},
    "longlora": {"factor": 16.0},
    "landmark": {"block": 16, "top_k": 4, "trained_length": 256},
}
TASKS = {
    "mini_needle_1k": "score",
    "mini_ppl_512": "perplexity",
    "mini_multiquery_256": "score",
    "mini_manyshot_4shot": "acc",
    "niah_1k": "score",
    "passkey_1k": "score",
    "ruler_4k_niah_single_1": "score",
    "longbench_4k_passage_count": "score",
    "text_ppl_2k": "ppl_overlap",
    "trec_coarse_1shot": "acc_constrained",
}


@pytest.fixture
def local_data(tmp_path) -> Path:
    """LongBench and text in the real schema."""
    (tmp_path / "LongBench").mkdir()
    draw = random.Random(0)
    context = " ".join(f"Paragraph {n}: {draw.getrandbits(64)}" for n in range(150))
    row = {
        "input": "", "context": context, "answers": ["12"], "length": 300,
        "dataset": "passage_count", "language": "en", "all_classes": None, "_id": "0" * 48,
    }  # fmt: skip
    (tmp_path / "LongBench" / "passage_count.jsonl").write_text(json.dumps(row) + "\n")
    text = " ".join(f"word{draw.randrange(900)}" for _ in range(2000))
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": text}) + "\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_runs_in_every_family(method, local_data, data_dir, tmp_path, monkeypatch):
    model, tokenizer = load_model("mini", method, length=4096, **METHODS[method])
    save_model(model, tokenizer, tmp_path / "checkpoint")
    monkeypatch.setenv("CTXBENCH_DATA", f"{local_data}:{data_dir}")
    metadata = {
        "tokenizer": str(resolve_model("mini")), "samples": 10,
        "text_path": str(local_data / "text.jsonl"), "ppl_stride": 1024,
    }  # fmt: skip
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    arguments = {"pretrained": str(tmp_path / "checkpoint"), "length": 4096, "device": "cpu"}
    found = simple_evaluate(
        model="ctxext", model_args=arguments, tasks=list(TASKS), task_manager=manager,
        bootstrap_iters=0, limit=4,
    )  # fmt: skip
    for task, metric in TASKS.items():
        (value,) = (v for k, v in found["results"][task].items() if k.split(",")[0] == metric)
        assert math.isfinite(value), task
    assert found["config"]["ctxbench"]["method"] == method
