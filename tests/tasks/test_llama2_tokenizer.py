"""The tasks of exact lengths with Llama-2's own tokenizer, through the harness, on a tiny Llama."""

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from ctxbench.cli import main
from ctxbench.tasks.leaf_files import tasks_path
from ctxbench.validate.tiny import tiny_config

TASKS = ["ruler_4k", "niah_4k", "passkey_4k"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory, data_dir):
    """A random model of next to no width, with the tokenizer beside it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("llama")
    config = tiny_config("llama")
    config.vocab_size, config.max_position_embeddings = 32000, 4096
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(data_dir / "llama2").save_pretrained(folder)
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXBENCH_DATA", str(data_dir))
    yield str(folder)
    patch.undo()


@pytest.mark.slow
def test_they_run_and_nothing_is_cut(llama):
    metadata = {"pretrained": llama, "samples": 10}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    found = simple_evaluate(
        model="ctxext",
        model_args={"pretrained": llama},
        tasks=TASKS,
        task_manager=manager,
        limit=1,
        bootstrap_iters=0,
    )
    assert found is not None
    leaves = [
        name for name in found["results"] if name.startswith(("ruler_4k_", "niah", "passkey"))
    ]
    assert len(leaves) == 13 + 4 + 2  # subtasks, their categories, niah and passkey
    assert found["config"]["ctxbench"]["truncated_prompts"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ruler_4k_niah_single_1", "niah_4k", "passkey_4k"])
def test_plan_says_how_tokens_are_counted(llama, capsys, task):
    status = main(["plan", "--model", llama, "--tasks", task, "--metadata", '{"samples": 10}'])
    out = capsys.readouterr().out
    assert status == 0, out
    assert "Prompt lengths: " in out
