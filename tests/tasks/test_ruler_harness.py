"""RULER in the harness: groups, averages, and windows that are too short."""

import lm_eval
import pytest
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import ctxbench
from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks.leaf_files import tasks_path
from ctxbench.tasks.ruler import dataset
from ctxbench.tasks.ruler.subtasks import SUBTASKS
from ctxbench.validate.tiny import tiny_model


@pytest.fixture(scope="module")
def data(data_dir):
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXBENCH_DATA", str(data_dir))
    yield data_dir
    patch.undo()


def evaluate(model: str | LM, arguments: dict | None) -> dict:
    """Run the group `ruler_4k` in the harness."""
    metadata = {**(arguments or {}), "tokenizer": "mini", "samples": 1}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    return lm_eval.simple_evaluate(
        model=model, model_args=arguments, tasks=["ruler_4k"], task_manager=manager,
        metadata=metadata, bootstrap_iters=0, device="cpu",
    )["results"]  # fmt: skip


@pytest.mark.slow
def test_the_whole_group_runs_on_our_model_and_on_hf(data, tmp_path):
    """Thirteen leaves, four groups, one average; the scores are those of models that cannot."""
    _, tokenizer = ctxbench.load_model("mini")
    plain = tiny_model(vocab_size=len(tokenizer), num_hidden_layers=1, max_position_embeddings=4096)
    plain.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    extended = {"pretrained": "mini", "method": "dynamic_ntk", "length": 4096}
    leaves = {dataset.leaf_name(subtask, 4096) for subtask in SUBTASKS}
    groups = {f"ruler_4k{part}" for part in ("", "_retrieval", "_tracing", "_aggregation", "_qa")}
    for model, arguments in (("ctxext", extended), ("hf", {"pretrained": str(tmp_path)})):
        results = evaluate(model, arguments)
        assert set(results) == leaves | groups
        assert len(leaves) == 13
        assert all(0 <= results[leaf]["score,none"] <= 100 for leaf in leaves)


class OracleOfOne(LM):
    """Answers variable tracking and nothing else."""

    def generate_until(self, requests):
        return [" ".join(r.doc["outputs"]) if "_vt" in r.task_name else "" for r in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def test_the_average_is_over_thirteen_tasks_not_over_four_categories(data):
    results = evaluate(OracleOfOne(), None)
    assert results["ruler_4k_tracing"]["score,none"] == 100
    assert results["ruler_4k"]["score,none"] == pytest.approx(100 / 13)


@pytest.mark.parametrize("model", ["ctxext", "hf"])
def test_a_window_that_is_too_short_stops_the_harness_before_generation(
    data, tmp_path, monkeypatch, model
):
    _, tokenizer = ctxbench.load_model("mini")
    tiny_model(vocab_size=len(tokenizer), max_position_embeddings=2048).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    arguments = {"pretrained": str(tmp_path)}

    def generate_until(self, requests, disable_tqdm=False):
        pytest.fail("generated")

    for kind in (CtxExt, HFLM):
        monkeypatch.setattr(kind, "generate_until", generate_until)
    with pytest.raises(ValueError, match=r"prompts of 4096 tokens .* the model's window is 2048"):
        evaluate(model, arguments)
