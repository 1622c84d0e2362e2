"""The lm-eval model: right numbers, nothing silent."""

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

import ctxbench
from ctxbench.core.compat.lm_eval import model_arguments
from ctxbench.core.stdlib_corpus import held_out_files
from ctxbench.core.windows import WindowedText
from ctxbench.models import arguments, extended
from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks.leaf_files import tasks_path
from ctxbench.tasks.perplexity.protocols import overlap_windows

TEXT = dict(held_out_files())["datetime.py"]


def model(**kwargs):
    return CtxExt(pretrained="mini", **{"method": "dynamic_ntk", "length": 1024, **kwargs})


def ask(kind: str, *arguments, task: str = "test"):
    return Instance(kind, {}, arguments, 0, (task, 0, 1))


def manager(**metadata):
    return TaskManager(
        include_path=str(tasks_path()),
        include_defaults=False,
        metadata={"pretrained": "mini", **metadata},
    )


@torch.no_grad()
def brute_force(lm, ids: list[int], first: int, length: int) -> torch.Tensor:
    """Log-probabilities by a float64 log-softmax over the model's own hidden states."""
    hf = lm.hf_model
    with lm.ctx_method.begin_request(hf, [length]):
        hidden = hf.base_model(torch.tensor([ids[:-1]]), use_cache=False).last_hidden_state[0]
    logits = hidden.double() @ hf.get_output_embeddings().weight.double().T
    logprobs = logits.log_softmax(-1)[first - 1 :]
    return logprobs.gather(1, torch.tensor(ids[first:])[:, None])[:, 0]


def test_loglikelihood_and_its_greedy_flag():
    lm = model()
    context, target = TEXT[:1500], TEXT[1500:1530]
    (total, greedy), (again, _) = lm.loglikelihood([ask("loglikelihood", context, target)] * 2)
    pair = lm._encode_pair(context, target)
    ids = [*pair[0], *pair[1]]
    assert total == pytest.approx(
        float(brute_force(lm, ids, len(pair[0]), len(ids)).sum()), abs=1e-4
    )
    assert total == again
    assert not greedy


@pytest.mark.parametrize("stride", [None, 100, 1000])
def test_rolling_windows_equal_a_brute_force_loop(stride):
    lm = model(length=512, stride=stride) if stride != 1000 else model(length=1024, stride=1000)
    window, step = lm.max_length, stride or lm.max_length
    (total,) = lm.loglikelihood_rolling([ask("loglikelihood_rolling", TEXT[:5000])])
    ids = [lm.prefix_token_id, *lm.tok_encode(TEXT[:5000])]
    done, brute = 1, 0.0
    while done < len(ids):
        end = min(done + (window if done == 1 else step), len(ids))
        if stride is None:  # the harness: the last window is extended to the left
            start = done - 1 if end - done == window else end - 1 - window
        else:
            start = max(0, end - window - 1)
        part = ids[max(start, 0) : end]
        first = done - max(start, 0)
        brute += float(brute_force(lm, part, first, min(len(part), window)).sum())
        done = end
    assert total == pytest.approx(brute, abs=1e-5 * len(ids))


def test_window_plans_are_answered_with_sums_and_positions():
    lm = model(length=256)
    ids = lm.tok_encode(TEXT)[:700]
    windows = overlap_windows(len(ids), 256, 100)
    (answer,) = lm.loglikelihood_rolling(
        [ask("loglikelihood_rolling", WindowedText(ids, windows, bucket=64))]
    )
    assert len(answer["sums"]) == len(windows) > 2
    positions = torch.zeros(4, dtype=torch.float64)
    for (start, first, end), loss in zip(windows, answer["sums"], strict=True):
        logprobs = brute_force(lm, ids[start:end], first - start, end - start)
        assert loss == pytest.approx(-float(logprobs.sum()), abs=1e-3)
        positions.index_add_(0, torch.arange(1, end - start) // 64, -logprobs)
    assert answer["positions"] == pytest.approx(positions.tolist(), abs=1e-3)


def test_mixed_batches_equal_single_rows():
    requests = [
        ask("loglikelihood", TEXT[: 150 * n], TEXT[150 * n : 150 * n + 40]) for n in (1, 5, 2, 8)
    ]
    single, batched = model(share_prefixes=False), model(share_prefixes=False, batch_size=4)
    one, four = single.loglikelihood(requests), batched.loglikelihood(requests)
    assert [t for t, _ in one] == pytest.approx([t for t, _ in four], abs=1e-4)
    prompts = [
        ask("generate_until", TEXT[n : n + 400 * k], {"until": ["\n\n"], "max_gen_toks": 12})
        for k, n in enumerate((10, 700, 2000), start=1)
    ]
    assert single.generate_until(prompts) == batched.generate_until(prompts)


@pytest.mark.parametrize(
    "method",
    [
        {"method": "none"},
        {"method": "pi"},
        {"method": "yarn", "dynamic": True},
        {"method": "dynamic_ntk"},
        {"method": "dynamic_ntk", "policy": "stateless"},
    ],
    ids=str,
)
def test_shared_prefixes_change_nothing(method):
    shared = [ask("loglikelihood", TEXT[:1200], TEXT[1200 + n : 1210 + n]) for n in range(4)]
    prompts = [
        ask("generate_until", TEXT[:1200] + TEXT[k : k + 90], {"until": [], "max_gen_toks": 8})
        for k in (0, 100, 200)
    ]
    reused, alone = model(**method), model(**method, share_prefixes=False)
    ours, theirs = reused.loglikelihood(shared), alone.loglikelihood(shared)
    assert [t for t, _ in ours] == pytest.approx([t for t, _ in theirs], abs=1e-4)
    assert [g for _, g in ours] == [g for _, g in theirs]
    assert reused.generate_until(prompts) == alone.generate_until(prompts)


def test_a_method_that_cannot_share_is_not_shared():
    lm = model(policy="stateless")
    schedule = lm.scorer.engine.schedule([[1, 2, 3, 4], [1, 2, 3, 5]], [4, 4])
    assert schedule.groups == []
    lm = model()
    assert lm.scorer.engine.schedule([[1, 2, 3, 4], [1, 2, 3, 5]], [4, 4]).groups == [[0, 1]]
    # beyond the window another length is another base
    assert lm.scorer.engine.schedule([[1, 2, 3, 4], [1, 2, 3, 5]], [400, 401]).groups == []


def test_prefill_in_chunks_changes_nothing():
    request = [ask("loglikelihood", TEXT[:1500], TEXT[1500:1520])]
    whole, chunked = model(), model(prefill_chunk=100)
    assert whole.loglikelihood(request)[0][0] == pytest.approx(
        chunked.loglikelihood(request)[0][0], abs=1e-4
    )


def test_half_precision_is_scored_exactly():
    lm = model(dtype="bfloat16")
    request = [ask("loglikelihood", TEXT[:800], TEXT[800:1600])]
    context, target = lm._encode_pair(TEXT[:800], TEXT[800:1600])
    ids = [*context, *target]
    expected = brute_force(lm, ids, len(context), len(ids))
    total = lm.loglikelihood(request)[0][0]
    assert total == pytest.approx(float(expected.sum()), abs=1e-5 * len(target))


# ------------------------------------------------------------- nothing silent


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"method": "yran"}, "no method 'yran'; did you mean yarn"),
        ({"lenght": 512}, "no argument 'lenght'; did you mean length"),
        ({"method": "pi", "alpha": 2}, "no argument 'alpha'"),
        ({"length": 512, "max_length": 1024}, "disagree"),
        ({"stride": 2048}, "stride=2048 is longer than the window"),
        ({"dtype": "float33"}, "dtype='float33'"),
        ({"delta": "x"}, "delta='x' cannot be combined with ctxext. Add the delta"),
        ({"autogptq": True}, "loads without it"),
        ({"gptqmodel": True}, "loads without it"),
        ({"gguf_file": "x.gguf"}, "Convert the file"),
        ({"logits_cache": False}, "share_prefixes=False"),
        ({"mixed_precision_dtype": "bfloat16"}, "Give dtype"),
        ({"softmax_dtype": "float16"}, "in float32"),
        ({"subfolder": "x"}, "Give a folder"),
        ({"load_in_8bit": True}, "saved quantised loads without it"),
        ({"max_memory": {0: "1GiB"}}, "Give max_memory_per_gpu"),
        ({"device_map": "auto"}, "parallelize=True"),
        ({"max_memory_per_gpu": "1GiB"}, "parallelize=True"),
        ({"max_cpu_memory": "1GiB"}, "parallelize=True"),
        ({"offload_folder": "x"}, "parallelize=True"),
        ({"prefill_chunk": "many"}, "'many' is not a length"),
    ],
)
def test_bad_arguments(kwargs, words):
    with pytest.raises(ValueError, match=words):
        model(**kwargs)


def test_what_only_loads_a_checkpoint_is_refused_for_a_model_in_memory():
    loaded, tokenizer = ctxbench.load_model("mini", "pi", length=512)
    for given, words in (
        ({"peft": "x"}, "peft='x' says how a checkpoint is loaded"),
        ({"variant": "fp16"}, "variant='fp16' says how"),
        ({"parallelize": True}, "parallelize=True says how"),
        ({"dtype": "bfloat16"}, "the model in memory has torch.float32"),
        ({"device": "cuda"}, "the model in memory is on cpu"),
    ):
        with pytest.raises(ValueError, match=words):
            CtxExt(loaded, tokenizer=tokenizer, **given)
    assert CtxExt(loaded, tokenizer=tokenizer, device="cpu", dtype="float32").max_length == 512


def test_a_thinking_model_is_not_asked_to_compare():
    lm = model(length=256, enable_thinking=True, think_end_token="#")
    with pytest.raises(ValueError, match="but test compares given answers"):
        lm.loglikelihood([ask("loglikelihood", "a", " b")])


def test_max_length_alone_is_the_length():
    assert CtxExt(pretrained="mini", method="none", max_length=512).max_length == 512


def test_a_prompt_that_does_not_fit_is_an_error_with_both_numbers():
    lm = model(length=256)
    long = TEXT[:3000]
    tokens = len(lm.tok_encode(long))
    with pytest.raises(ValueError, match=rf"up to {tokens + 8} tokens, but the window is 256"):
        lm.generate_until([ask("generate_until", long, {"until": [], "max_gen_toks": 8})])
    with pytest.raises(ValueError, match="the window is 256"):
        lm.loglikelihood([ask("loglikelihood", long, " x")])
    with pytest.raises(ValueError, match="leaves no room"):
        lm.generate_until([ask("generate_until", "x", {"until": [], "max_gen_toks": 400})])


def test_all_that_does_not_fit_is_told_before_anything_is_computed(monkeypatch):
    """Two tasks, other generation arguments, several parts: not one error a run."""
    lm = model(length=256)
    monkeypatch.setattr(lm.scorer, "score", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(lm.generator, "generate", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(
        "ctxbench.models.ctxext.split_by_size", lambda requests: [[r] for r in requests]
    )
    long, longer = TEXT[:3000], TEXT[:4000]
    most = len(lm.tok_encode(longer + " x"))
    words = rf"up to {most} .*: 1 of task a \(up to \d+ tokens\), 2 of task b \(up to {most} tokens"
    texts = {"a": ["x", long], "b": ["x", longer, long]}
    requests = [(task, text) for task in texts for text in texts[task]]
    with pytest.raises(ValueError, match=words):
        lm.loglikelihood([ask("loglikelihood", text, " x", task=t) for t, text in requests])
    most = len(lm.tok_encode(longer)) + 8
    words = rf"1 of task a \(up to \d+ tokens\), 2 of task b \(up to {most} tokens"
    budgets = {"a": {"until": [], "max_gen_toks": 4}, "b": {"until": [], "max_gen_toks": 8}}
    with pytest.raises(ValueError, match=words):
        lm.generate_until([ask("generate_until", text, budgets[t], task=t) for t, text in requests])
    ids = list(range(600))
    plans = {t: WindowedText(ids, [[0, 1, n]], 0) for t, n in (("a", 300), ("b", 500))}
    with pytest.raises(ValueError, match=r"1 of task a \(up to 300 .* 1 of task b \(up to 500 "):
        lm.loglikelihood_rolling(
            [ask("loglikelihood_rolling", plan, task=t) for t, plan in plans.items()]
        )


def test_truncation_is_counted():
    lm = model(length=256, truncation=True)
    ask_long = ask("generate_until", TEXT[:3000], {"until": [], "max_gen_toks": 8})
    lm.generate_until([ask_long])
    assert lm.get_model_info()["ctxbench"]["truncated_prompts"] == 1
    middle = {"until": [], "max_gen_toks": 8, "ctx_overflow": "middle"}
    model(length=256).generate_until([ask("generate_until", TEXT[:3000], middle)])
    with pytest.raises(ValueError, match="ctx_overflow='sideways'"):
        lm.generate_until([ask("generate_until", "x", {"until": [], "ctx_overflow": "sideways"})])


def test_the_harness_cache_is_refused(tmp_path):
    from lm_eval.api.model import CachingLM

    with pytest.raises(ValueError, match="model argument cache=FOLDER"):
        CachingLM(model(), str(tmp_path / "unsafe.db"))


def test_results_name_the_method():
    results = lm_eval.simple_evaluate(
        model="ctxext",
        model_args={"pretrained": "mini", "method": "ntk-frozen", "length": 512},
        tasks=["mini_needle_256"],
        task_manager=manager(samples=4),
        bootstrap_iters=0,
    )
    said = results["config"]["ctxbench"]
    assert said["method"] == "dynamic_ntk"
    assert said["options"]["factor"] == 2.0
    assert said["device"] == "cpu"
    assert (said["length"], said["original_length"]) == (512, 256)
    assert results["results"]["mini_needle_256"]["score,none"] >= 0.5


def test_answers_are_kept_and_never_shared(tmp_path):
    requests = [ask("loglikelihood", TEXT[:500], TEXT[500 + n : 520 + n]) for n in range(3)]
    first = model(cache=str(tmp_path))
    expected = first.loglikelihood(requests)
    again = model(cache=str(tmp_path))
    again.scorer.score = lambda *_: pytest.fail("computed again")
    assert again.loglikelihood(requests) == expected
    for other in ({"method": "pi"}, {"factor": 3}, {"length": 2048}, {"dtype": "bfloat16"}):
        assert model(cache=str(tmp_path), **other).answers.file != first.answers.file
    changed, _ = ctxbench.load_model("mini", "dynamic_ntk", length=1024)
    with torch.no_grad():
        changed.base_model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    tokenizer = first.tokenizer
    in_memory = CtxExt(pretrained=changed, tokenizer=tokenizer, cache=str(tmp_path))
    assert in_memory.answers.file != first.answers.file


def test_a_damaged_answer_cache_is_named(tmp_path):
    answers = model(cache=str(tmp_path)).answers
    answers.database.close()
    file = answers.file
    file.write_bytes(b"not a database" * 100)
    with pytest.raises(ValueError, match="is damaged"):
        model(cache=str(tmp_path))


# --------------------------------------------------------- every argument of `--model hf`


def test_every_argument_of_hf_is_followed_or_refused_by_name():
    """One that a new lm-eval adds fails here, and is unknown to no one meanwhile."""
    named = [*EFFECTS, *arguments.NEED_PARALLELIZE, *arguments.REFUSED]
    assert len(named) == len({*named})
    assert {*EFFECTS} <= {*model_arguments()} <= {*named}


def loaded_with(monkeypatch, owner, name, **given):
    """The keyword arguments of a call that loads a part of a checkpoint."""
    seen, plain = {}, getattr(owner, name)

    def call(*args, **kwargs):
        seen.update(kwargs)
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    CtxExt("mini", **given)
    return seen


def of_config(patch, **given):
    return loaded_with(patch, extended, "load_config", **given)


def of_tokenizer(patch, **given):
    return loaded_with(patch, extended.AutoTokenizer, "from_pretrained", **given)


def refusal(**given):
    with pytest.raises((ValueError, OSError)) as error:
        CtxExt("mini", **given)
    return str(error.value)


def empty_context(lm):
    return lm._encode_request(ask("loglikelihood", "", " a")).ids[0]


def template_says(lm):
    lm.tokenizer.chat_template = "{{ mood }} {{ enable_thinking }}"
    return lm.apply_chat_template([{"role": "user", "content": "x"}])


EFFECTS = {
    "pretrained": lambda _: CtxExt("mini").hf_model.config.hidden_size == 128,
    "backend": lambda _: "runs causal language models" in refusal(backend="seq2seq"),
    "revision": lambda patch: of_config(patch, revision="v2")["revision"] == "v2",
    "tokenizer": lambda _: "nowhere" in refusal(tokenizer="nowhere/nothing"),
    "truncation": lambda _: CtxExt("mini", truncation=True).truncation,
    "max_length": lambda _: CtxExt("mini", max_length=128).max_length == 128,
    "device": lambda _: str(CtxExt("mini", device="cpu").device) == "cpu",
    "dtype": lambda _: CtxExt("mini", dtype="float64").hf_model.dtype == torch.float64,
    "batch_size": lambda _: CtxExt("mini", batch_size=3).scorer.engine.batch_size == 3,
    "max_batch_size": lambda _: (
        CtxExt("mini", batch_size="auto", max_batch_size=5).scorer.engine.budget.row_limit == 5
    ),
    "trust_remote_code": lambda patch: of_config(patch, trust_remote_code=True)[
        "trust_remote_code"
    ],
    "use_fast_tokenizer": lambda patch: (
        not of_tokenizer(patch, use_fast_tokenizer=False)["use_fast"]
    ),
    "add_bos_token": lambda _: CtxExt("mini", add_bos_token=True).add_bos_token,
    "prefix_token_id": lambda _: empty_context(CtxExt("mini", prefix_token_id=7)) == 7,
    "parallelize": lambda _: (
        CtxExt("mini", parallelize=True).hf_model.hf_device_map
        if torch.cuda.is_available()
        else "found no room for all weights" in refusal(parallelize=True)
    ),
    "tp_plan": lambda _: "parallelize" in refusal(tp_plan="auto", parallelize=True),
    "peft": lambda _: "nowhere" in refusal(peft="nowhere"),
    "think_end_token": lambda _: CtxExt("mini", think_end_token="7").reasoning.end == 7,
    "enable_thinking": lambda _: "False" in template_says(CtxExt("mini", enable_thinking=False)),
    "chat_template_args": lambda _: (
        "glad" in template_says(CtxExt("mini", chat_template_args={"mood": "glad"}))
    ),
}
"""Argument -> whether it has its effect."""


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.filterwarnings("ignore")  # of libraries, about what they are asked for
def test_an_argument_of_hf_has_its_effect(name, monkeypatch):
    assert EFFECTS[name](monkeypatch)
