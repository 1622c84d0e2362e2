"""Logits against numbers made by the official implementations (golden/attn/README.md)."""

import warnings
from contextlib import contextmanager

import pytest
import torch

from ctxbench.methods.attach import method_of
from tests.methods.attention_goldens import Golden, assert_matches

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def run_case(model, case, ids):
    """Prefill and decode as the case says; logits of every token."""
    first = case.get("n_prefill", case["n"])
    with torch.no_grad():
        out = model(ids[:, :first], use_cache=True)
        logits = [out.logits]
        for at in range(first, ids.shape[1]):
            step = ids[:, at : at + 1]
            out = model(step, past_key_values=out.past_key_values, use_cache=True)
            logits.append(out.logits)
    return torch.cat(logits, dim=1)


@contextmanager
def uneven_groups_allowed():
    """One golden has a window that its group does not divide, which we warn about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not divide window.*")
        yield


def options_of(name: str, case: dict) -> dict:
    if name.startswith("lm_infinite"):
        return {"window": case["local_branch"], "sinks": case["global_branch"]}
    if name.startswith("self_extend"):
        return {"window": case["window"], "group": case["group"]}
    if name.startswith("dca"):
        return {"chunk": case["chunk_size"], "window": case["local_window"]}
    return {"window": case["recent_size"], "sinks": case["start_size"]}


FILES = {
    "lm_infinite": "lm_infinite",
    "self_extend": "self_extend",
    "self_extend_phi": "self_extend",
    "dca_naive": "dca",
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FILES)
def test_official_logits(golden_dir, name, dtype):
    golden = Golden(golden_dir, name)
    by_options: dict[str, list] = {}
    for case in golden.cases.values():
        by_options.setdefault(str(options_of(name, case)), []).append(case)
    for cases in by_options.values():
        with uneven_groups_allowed():
            model = golden.extended(FILES[name], dtype, **options_of(name, cases[0]))
        for case in cases:
            logits = run_case(model, case, golden.get(case, "input_ids"))
            assert_matches(logits, golden.get(case, "logits"), dtype)


def test_dcas_official_prefill_is_as_far_from_the_formulas_as_the_official_code(golden_dir):
    """Of its float32 run the golden has only the largest difference; ours is the same."""
    golden = Golden(golden_dir, "dca_naive")
    for case in golden.cases.values():
        options = options_of("dca", case)
        model = golden.extended("dca", torch.float32, prefill="official", **options)
        with torch.no_grad():
            logits = model(golden.get(case, "input_ids")).logits
        far = (logits - golden.get(case, "logits")).abs().max().item()
        assert far == pytest.approx(case["official_prefill_maxdiff"], abs=2e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_streaming_llm_at_once_equals_the_official_token_by_token(golden_dir, dtype):
    golden = Golden(golden_dir, "streaming_llm")
    cases = [case for case in golden.cases.values() if case["kind"] == "tokenwise"]
    assert cases
    for case in cases:
        model = golden.extended("streaming_llm", dtype, **options_of("streaming", case))
        logits = run_case(model, case, golden.get(case, "input_ids"))
        assert_matches(logits, golden.get(case, "logits"), dtype)


@pytest.mark.parametrize("name", ["lm_infinite", "self_extend"])
def test_the_papers_settings(golden_dir, name):
    golden = Golden(golden_dir, f"{name}_real")
    case = golden.cases[""]
    model = golden.extended(name, torch.float32, **options_of(name, case))
    ids = golden.get(case, "input_ids").view(1, -1)
    rows = golden.get(case, "rows").long()
    with torch.no_grad():
        logits = model(ids, logits_to_keep=rows).logits
    assert_matches(logits, golden.get(case, "logits_rows"), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["longlora", "longlora_pi"])
def test_longlora_training_logits_loss_and_gradients(golden_dir, name, dtype):
    golden = Golden(golden_dir, name)
    scaling = golden.info["config"].get("rope_scaling") or {"factor": 1.0}
    for case in golden.cases.values():
        model = golden.extended(
            "longlora", dtype, ratio=case["ratio"], factor=scaling["factor"], length=4096
        )
        ids = golden.get(case, "input_ids")
        with torch.no_grad():
            assert_matches(model(ids).logits, golden.get(case, "full_logits"), dtype)
        out = model.train()(ids, labels=ids)
        assert_matches(out.logits, golden.get(case, "logits"), dtype)
        assert_matches(out.loss.view(1), golden.get(case, "loss"), dtype)
        assert (out.logits - golden.get(case, "noflash_logits")).abs().max() > 0.1
        out.loss.backward()
        for parameter, expected in gradients(golden, case).items():
            assert_matches(model.get_parameter(parameter).grad, expected, dtype)


def gradients(golden: Golden, case: dict) -> dict[str, torch.Tensor]:
    """Official gradients of a case by parameter name."""
    prefix = f"{case['key']}.grad."
    found = {k.removeprefix(prefix): v for k, v in golden.tensors.items() if k.startswith(prefix)}
    assert len(found) >= 2
    return found


def landmark_options(golden: Golden, case: dict) -> dict:
    block = case["mem_freq"] + 1
    return {
        "block": block,
        "top_k": case.get("cache_top_k", 1),
        "trained_length": case.get("train_context_length", 3 * block),
        "retrieval": case.get("aggregate", "per_token"),
        "landmark_in_loss": case.get("include_landmark_in_loss", True),
        "token_id": case["mem_id"],
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_landmark_training_logits_loss_and_gradients(golden_dir, dtype):
    golden = Golden(golden_dir, "landmark")
    cases = [case for case in golden.cases.values() if case["kind"] == "train_forward"]
    assert len(cases) == 8
    for case in cases:
        model = golden.extended("landmark", dtype, **landmark_options(golden, case)).train()
        raw = golden.get(case, "raw_input_ids")
        batch = {"input_ids": raw, "labels": raw}
        batch = method_of(model).edit_batch(batch, torch.Generator())
        assert batch["input_ids"].equal(golden.get(case, "input_ids"))
        out = model(**batch)
        assert_matches(out.logits, golden.get(case, "logits"), dtype)
        assert_matches(out.loss.view(1), golden.get(case, "loss"), dtype)
        out.loss.backward()
        for parameter, expected in gradients(golden, case).items():
            assert_matches(model.get_parameter(parameter).grad, expected, dtype)


def test_landmark_memory_in_prefill_and_decoding(golden_dir):
    """In float64 only: in float32 rounding decides which of nearly equal blocks is retrieved."""
    golden = Golden(golden_dir, "landmark")
    cases = [case for case in golden.cases.values() if case["kind"] == "memory_inference"]
    assert len(cases) == 21
    for case in cases:
        model = golden.extended("landmark", **landmark_options(golden, case))
        raw, forced = golden.get(case, "raw_input_ids"), golden.get(case, "decode_ids")
        fed, reads = method_of(model).encode(raw[0].tolist(), 0)
        assert fed == golden.get(case, "prefill_ids_with_landmarks")[0].tolist()
        with torch.no_grad():
            out = model(raw, use_cache=True)
            if case["include_landmark_in_loss"]:
                expected = golden.get(case, "prefill_logits")[:, reads]
                assert_matches(out.logits, expected)
            following = [out.logits[:, -1:]]
            for token in forced.split(1, dim=1):
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
                following.append(out.logits)
        assert_matches(torch.cat(following, 1), golden.get(case, "next_token_logits"))


def mask_for_space(mask, at, case):
    """Mask of the `at` tokens read all but the first and the last, with room for a turn."""
    kept = mask[0, :at].nonzero()[:, 0]
    last = case["recent_size"] - case["evict_for_space"]
    if len(kept) > case["start_size"] + last:
        mask[0, kept[case["start_size"] : len(kept) - last]] = 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_streaming_llm_dialogue_whose_old_turns_are_masked(golden_dir, dtype):
    """The official dialogue evicts before each turn; a mask without those tokens is as good."""
    golden = Golden(golden_dir, "streaming_llm")
    cases = [case for case in golden.cases.values() if case["kind"] == "turns"]
    assert len(cases) == 2
    for case in cases:
        model = golden.extended("streaming_llm", dtype, **options_of("streaming", case))
        ids, expected = golden.get(case, "input_ids"), golden.get(case, "logits")
        mask, cache, at = torch.ones_like(ids), None, 0
        for prompt in case["turn_prompt_lens"]:
            mask_for_space(mask, at, case)
            for size in [prompt] + [1] * case["decode_per_turn"]:
                with torch.no_grad():
                    out = model(
                        ids[:, at : at + size],
                        attention_mask=mask[:, : at + size],
                        past_key_values=cache,
                        use_cache=True,
                    )
                cache = out.past_key_values
                assert_matches(out.logits, expected[:, at : at + size], dtype)
                at += size
        assert at == ids.shape[1]
