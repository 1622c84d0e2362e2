"""What goes wrong in the middle of a run."""

import pytest
import torch
from filelock import FileLock
from lm_eval.api.instance import Instance

from ctxbench.models.ctxext import CtxExt
from ctxbench.train import loop
from ctxbench.train.checkpoint import find_checkpoint
from tests.train.small import small_config


def test_two_runs_in_one_output_folder(tmp_path):
    config = small_config(tmp_path, steps=2, warmup=0)
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(ValueError, match="Another ctxbench-train writes"):
        loop.train(config)
    assert not (out / "metrics.jsonl").exists()
    assert loop.train(config) == out  # the system has let go of it


def test_a_loss_that_is_no_number_stops_and_is_never_saved(tmp_path, monkeypatch):
    config = small_config(tmp_path, steps=4, save_every=1, micro_batch_size=4)
    forward = loop.CausalLoss.forward
    calls = []

    def poisoned(self, batch):
        calls.append(1)
        return forward(self, batch) * (float("nan") if len(calls) > 2 else 1.0)

    monkeypatch.setattr(loop.CausalLoss, "forward", poisoned)
    with pytest.raises(ValueError, match=r"The loss is nan at step 3. Lower --lr"):
        loop.train(config)
    found = find_checkpoint(tmp_path / "out" / "checkpoints")
    assert found is not None
    assert found.step == 2
    assert not (tmp_path / "out" / "config.json").exists()


def ask(kind: str, *arguments):
    return Instance(kind, {}, arguments, 0, ("test", 0, 1))


def out_of_memory_once(function, at: int):
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return function(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("at", [1, 3])
def test_out_of_memory_in_the_middle_changes_no_answer(monkeypatch, share, at):
    text = "import os\nclass A:\n    pass\n" * 8
    kinds = {"until": ["\n\n"], "max_gen_toks": 4}
    scored = [ask("loglikelihood", text + f"x = {i}\n" * i, " return") for i in range(5)]
    asked = [ask("generate_until", text + f"x = {i}\n" * i, kinds) for i in range(5)]

    def answers(fail: bool) -> tuple[list[float], list[str]]:
        found = []
        for ask_model in (
            lambda lm: [total for total, _ in lm.loglikelihood(scored)],
            lambda lm: lm.generate_until(asked),
        ):
            lm = CtxExt("mini", method="pi", length=512, batch_size=4, share_prefixes=share)
            base = lm.hf_model.base_model
            if fail:
                monkeypatch.setattr(base, "forward", out_of_memory_once(base.forward, at))
            found.append(ask_model(lm))
        return found[0], found[1]

    totals, texts = answers(fail=False)
    again, same = answers(fail=True)
    # other batch widths and chunks add float32 in another order: 1e-5 of a log-likelihood
    assert again == pytest.approx(totals, abs=1e-4)
    assert same == texts


def test_out_of_memory_that_stays_says_what_to_do(monkeypatch):
    lm = CtxExt("mini", length=256)

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(lm.hf_model.base_model, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError, match="Give a half-precision dtype"):
        lm.loglikelihood([ask("loglikelihood", "import", " os")] * 2)


def test_prompts_that_differ_in_the_last_token_only():
    lm = CtxExt("mini", length=256)
    text = "import os\nimport sys\n" * 5
    ids = lm.tok_encode(text + "return")
    prompts = [lm.tok_decode([*ids, last]) for last in lm.tok_encode("A B C")[:2]]
    assert [lm.tok_encode(p)[:-1] for p in prompts] == [ids] * 2
    asked = [ask("generate_until", p, {"until": [], "max_gen_toks": 3}) for p in prompts]
    alone = CtxExt("mini", length=256, share_prefixes=False)
    assert lm.generate_until(asked) == alone.generate_until(asked)


def test_unicode_and_empty_prompts_are_answered():
    lm = CtxExt("mini", length=256)
    texts = ["", "東京 🙂 \u202e", "\u0000", " \n"]
    asked = [ask("generate_until", t or " ", {"until": [], "max_gen_toks": 2}) for t in texts]
    assert len(lm.generate_until(asked)) == 4
    assert all(
        total < 0
        for total, _ in lm.loglikelihood([ask("loglikelihood", "", t + "a") for t in texts])
    )
    with pytest.raises(ValueError, match="empty continuation"):
        lm.loglikelihood([ask("loglikelihood", "a", "")])
