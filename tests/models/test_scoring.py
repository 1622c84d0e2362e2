"""Scores against a float64 log-softmax, and shared prefixes for every method there is."""

from itertools import pairwise, starmap

import pytest
import torch

import ctxbench
from ctxbench.methods.rotary import rotary_dim
from ctxbench.models.generating import Generator, Prompt
from ctxbench.models.prefix import branch_points, common_prefix
from ctxbench.models.scoring import Request, Scorer
from tests.methods.tiny import tiny_model, tokens

NEEDS = {"longrope": lambda config: {"long_factor": [2.0] * (rotary_dim(config) // 2)}}
LANDMARK = {"landmark": {"token_id": 99}}


def extended(name: str, architecture: str = "llama", **more):
    model = tiny_model(architecture, initializer_range=0.1, **more)
    options = NEEDS.get(name, lambda config: {})(model.config) | LANDMARK.get(name, {})
    return ctxbench.extend(model, name, length=256, **options).eval()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "phi", "qwen2"])
def test_scores_equal_a_float64_log_softmax_of_the_hidden_states(architecture, dtype):
    model = extended("dynamic_ntk", architecture).to(dtype)
    ids = tokens(1, 150)[0].tolist()
    (score,) = Scorer(model, model.ctxbench_method).scores([Request(ids, 20)])
    with model.ctxbench_method.begin_request(model, [150]):
        hidden = model.base_model(torch.tensor([ids[:-1]]), use_cache=False).last_hidden_state[0]
    head = model.get_output_embeddings()
    bias = 0 if head.bias is None else head.bias.double()
    logprobs = (hidden.double() @ head.weight.double().T + bias).log_softmax(-1)[19:]
    expected = logprobs.gather(1, torch.tensor(ids[20:])[:, None])[:, 0]
    torch.testing.assert_close(score.logprobs.double(), expected, rtol=0, atol=1e-5)
    assert score.total == pytest.approx(float(expected.sum()), abs=1e-5 * len(expected))


@pytest.mark.parametrize("name", ctxbench.list_methods())
def test_shared_prefixes_agree_or_are_refused(name):
    model = extended(name)
    method = model.ctxbench_method
    shared, ends = tokens(1, 120)[0].tolist(), tokens(3, 6, seed=1).tolist()
    requests = [Request([*shared, *end], 120) for end in ends]
    with_sharing = Scorer(model, method)
    plan = with_sharing.plan([r.fed for r in requests], [r.final_length for r in requests])
    assert bool(plan.runs) == (method.reuse_key(model.config, 126) is not None)
    ours = with_sharing.scores(requests)
    theirs = Scorer(model, method, share_prefixes=False).scores(requests)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, rtol=0, atol=1e-5)
        assert one.greedy == other.greedy


@pytest.mark.parametrize("name", ["pi", "landmark"])
def test_prompts_that_differ_in_their_last_token_only(name):
    model = extended(name)
    shared = tokens(1, 40)[0].tolist()
    prompts = [Prompt(ids, 60) for ids in ([*shared, 5], [*shared, 6], [*shared, 6, 7], [9])]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    found: dict[bool, dict[int, list[int]]] = {}
    for share in (True, False):
        scorer = Scorer(model, model.ctxbench_method, share_prefixes=share)
        found[share] = {}
        generator = Generator(scorer, 1)
        generator.generate(prompts, options, lambda *_: None, found[share].__setitem__)
    assert found[True] == found[False]


def tree() -> list[Request]:
    """Requests whose beginnings branch twice, the second time within a piece of the first."""
    shared, *middles = tokens(4, 60)[:, :60].tolist()
    ends = tokens(9, 5, seed=1).tolist()
    middles = [middles[0], [*middles[0][:30], *middles[1][:20]], middles[2]]
    texts = [[*shared, *middles[i // 3], *end] for i, end in enumerate(ends)]
    return [Request(text, len(text) - 3, 126) for text in texts]


SHARING = ["none", "dynamic_ntk", "clex", "self_extend", "lm_infinite", "dca"]


@pytest.mark.parametrize("name", SHARING)
def test_what_is_known_already_changes_no_bit_of_a_score(name):
    """A killed run goes on over the requests that are left; equal pieces make equal bits."""
    model = extended(name)
    requests = tree()
    scorer = Scorer(model, model.ctxbench_method)
    whole = scorer.scores(requests)
    for wanted in ([8], [2, 4], [5, 6, 7], []):
        found = {}
        scorer.score(requests, found.__setitem__, wanted)
        assert sorted(found) == wanted
        for number, score in found.items():
            assert torch.equal(score.logprobs, whole[number].logprobs)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_known_already_changes_no_bit_of_a_batch(batch_size):
    model = extended("pi")
    ids = tokens(9, 40).tolist()
    requests = [Request(row[: 40 - number], 3) for number, row in enumerate(ids)]
    scorer = Scorer(model, model.ctxbench_method, batch_size=batch_size)
    whole = scorer.scores(requests)
    found: dict = {}
    scorer.score(requests, found.__setitem__, [1, 6])
    assert sorted(found) == [1, 6]
    assert all(torch.equal(found[i].logprobs, whole[i].logprobs) for i in found)


def test_no_token_is_fed_twice_for_being_cut():
    model = extended("pi")
    requests = tree()
    scorer = Scorer(model, model.ctxbench_method)
    fed: list[int] = []
    model.base_model.register_forward_pre_hook(lambda _, args: fed.append(args[0].shape[1]))
    scorer.scores(requests)
    ordered = sorted(list(request.fed) for request in requests)
    again = sum(starmap(common_prefix, pairwise(ordered)))
    assert sum(fed) == sum(map(len, ordered)) - again
    assert len(fed) <= 2 * len(requests)


def test_paths_are_cut_where_requests_branch():
    run = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 7, 8], [1, 2, 7, 9], [3, 3]]
    cuts = [[2, 4], [2, 4], [2, 3], [2, 3], []]
    assert branch_points(run, [5] * 5) == cuts
    # what must be computed again for each request is no cut
    assert branch_points(run, [5, 3, 5, 2, 1]) == [[2, 3], [2, 3], [2], [2], []]


@pytest.mark.slow
@pytest.mark.parametrize("length", [65536, 131072])
def test_long_inputs_fed_in_chunks_equal_one_pass(length):
    """One layer, one head: what is looked at is the feeding, not the model."""
    sizes = {"hidden_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1}
    model = tiny_model("llama", num_hidden_layers=1, intermediate_size=32, **sizes)
    model = ctxbench.extend(model, "dynamic_ntk", length=length).eval()
    ids = tokens(1, length)[0].tolist()
    request = Request(ids, length - 500, length)
    whole, pieces = (
        Scorer(model, model.ctxbench_method, prefill_chunk=chunk).scores([request])[0]
        for chunk in (length, 8192)
    )
    # float32 sums over 64k keys in another order
    torch.testing.assert_close(pieces.logprobs, whole.logprobs, rtol=0, atol=1e-4)
    assert pieces.greedy == whole.greedy
