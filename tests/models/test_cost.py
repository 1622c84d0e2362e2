"""`ctxbench plan` for single evaluations: what it says is what a run does."""

import json
import shutil

import pytest
from lm_eval.tasks import TaskManager

from ctxbench.cli import main
from ctxbench.core.assets import resolve_model
from ctxbench.models.cost import _measure, describe_cost, evaluation_cost
from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks.leaf_files import tasks_path

LLAMA2 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


@pytest.fixture
def llama(tmp_path):
    """Llama-2-7B's shape with the bundled tokenizer, and no weights at all."""
    folder = tmp_path / "llama"
    shutil.copytree(resolve_model("mini"), folder)
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(LLAMA2))
    return str(folder)


def test_it_counts_what_a_run_reads():
    cost = evaluation_cost(
        "mini", ["mini_needle_512", "mini_manyshot_4shot"], "pi", length=512, limit=6, sample=0,
        device="cpu",
    )  # fmt: skip
    lm = CtxExt("mini", method="pi", length=512)
    manager = TaskManager(
        include_path=str(tasks_path()), include_defaults=False, metadata={"pretrained": "mini"}
    )
    for found in cost.tasks:
        task = manager.load([found.name])["tasks"][found.name]
        task.build_all_requests(limit=6, rank=0, world_size=1)
        if task.OUTPUT_TYPE == "generate_until":
            sizes = [len(lm.tok_encode(r.args[0])) for r in task.instances]
            assert found.longest == max(sizes) + 8
            assert found.new_tokens == 8
        else:
            sizes = [len(lm.tok_encode("".join(r.args))) for r in task.instances]
        assert found.requests == len(sizes)
        assert found.tokens == sum(sizes)
        assert (found.cut, found.unfit) == (0, 0)


def test_a_model_is_planned_without_its_weights(llama):
    cost = evaluation_cost(llama, ["mini_needle_4k"], "yarn", length="32k", device="H100", sample=2)
    (task,) = cost.tasks
    assert cost.window == 32768
    assert cost.parameters == 6_738_415_616  # Llama-2-7B
    assert cost.memory["weights"] == 2 * cost.parameters
    mean = task.tokens / task.requests
    matrices = cost.parameters - 32000 * 4096 - 65 * 4096  # without the look-up and the norms
    reading = task.tokens * (2 * matrices + 2 * 32 * 4096 * mean) / (989e12 * 0.4)
    cached = 2 * 32 * 4096 * 2 * mean
    writing = task.requests * 8 * (2 * cost.parameters + cached) / 3.35e12
    assert cost.seconds[task.name] == pytest.approx(reading + writing, rel=1e-9)
    text = "\n".join(describe_cost(cost))
    assert "one H100" in text
    assert "cut" in text


class Asked:
    def __init__(self, kind, *args):
        self.request_type, self.args = kind, args


def test_requests_that_do_not_fit():
    def tokenizer(text):
        return {"input_ids": text.split()}

    overflow = {"max_gen_toks": 4, "ctx_overflow": "middle"}
    assert _measure(Asked("generate_until", "a b c", overflow), tokenizer) == (3, 4, "middle")
    assert _measure(Asked("generate_until", "a b", {"until": []}), tokenizer) == (2, 256, "error")
    assert _measure(Asked("loglikelihood", "a b", " c"), tokenizer) == (3, 0, "error")
    assert _measure(Asked("loglikelihood_rolling", "a b"), tokenizer) == (2, 0, "allow")


def test_prompts_beyond_the_window_are_said_before_the_run(capsys):
    # needles of 256 tokens in a window of 250: lm_eval would begin, and stop at the first
    command = ["plan", "--model", "mini", "--tasks", "mini_needle_256", "--length", "250"]
    assert main(command) != 0
    shown = "".join(capsys.readouterr())
    assert "256" in shown
    assert "250" in shown


def test_command(capsys, llama):
    assert main(["plan", "--model", "mini", "--tasks", "mini_needle_128,mini_ppl_128"]) == 0
    shown = capsys.readouterr().out
    assert "mini_needle_128" in shown
    assert "one CPU core" in shown
    for words, error in (
        (["--tasks", "mini_needle_128"], "needs --model"),
        (["mini", "--model", "mini", "--tasks", "mini_needle_128"], "not a study"),
        (["--model", "mini", "--tasks", "mini_needle_128", "--metadata", "{"], "is not JSON"),
        (["--model", llama, "--tasks", "mini_needle_128", "--gpu", "H1"], "'H1' is not known"),
    ):
        assert main(["plan", *words]) == 2
        assert error in capsys.readouterr().err
