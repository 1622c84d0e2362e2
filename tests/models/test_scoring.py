"""Scores against a float64 log-softmax, and shared prefixes for every method there is."""

from itertools import pairwise, starmap

import pytest
import torch

import ctxbench
from ctxbench.methods.attach import method_of
from ctxbench.methods.rotary import rotary_dim
from ctxbench.models.engine import Engine
from ctxbench.models.generating import Generator
from ctxbench.models.requests import GenerationRequest, ScoringRequest
from ctxbench.models.schedule import branch_points, common_prefix
from ctxbench.models.scoring import Scorer
from tests.methods.tiny import tiny_model, tokens

NEEDS = {"longrope": lambda config: {"long_factor": [2.0] * (rotary_dim(config) // 2)}}
LANDMARK = {"landmark": {"token_id": 99}}


def extended(name: str, architecture: str = "llama", **more):
    model = tiny_model(architecture, initializer_range=0.1, **more)
    options = NEEDS.get(name, lambda config: {})(model.config) | LANDMARK.get(name, {})
    return ctxbench.extend(model, name, length=256, **options).eval()


def scorer_of(model, **how) -> Scorer:
    return Scorer(Engine(model, method_of(model), **how))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "phi", "qwen2"])
def test_scores_equal_a_float64_log_softmax_of_the_hidden_states(architecture, dtype):
    model = extended("dynamic_ntk", architecture).to(dtype)
    ids = tokens(1, 150)[0].tolist()
    ((_, score),) = scorer_of(model).score([ScoringRequest(ids, 20)])
    with method_of(model).begin_request(model, [150]):
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
    method = method_of(model)
    shared, ends = tokens(1, 120)[0].tolist(), tokens(3, 6, seed=1).tolist()
    requests = [ScoringRequest([*shared, *end], 120) for end in ends]
    with_sharing = scorer_of(model)
    schedule = with_sharing.engine.schedule(
        [r.fed for r in requests], [r.final_length for r in requests]
    )
    assert bool(schedule.groups) == (method.reuse_key(model.config, 126) is not None)
    ours = dict(with_sharing.score(requests))
    theirs = dict(scorer_of(model, share_prefixes=False).score(requests))
    assert ours.keys() == theirs.keys()
    for number, one in ours.items():
        torch.testing.assert_close(one.logprobs, theirs[number].logprobs, rtol=0, atol=1e-5)
        assert one.greedy == theirs[number].greedy


@pytest.mark.parametrize("name", ["pi", "landmark"])
def test_prompts_that_differ_in_their_last_token_only(name):
    model = extended(name)
    shared = tokens(1, 40)[0].tolist()
    prompts = [
        GenerationRequest(ids, 60) for ids in ([*shared, 5], [*shared, 6], [*shared, 6, 7], [9])
    ]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    found = {}
    for share in (True, False):
        engine = Engine(model, method_of(model), share_prefixes=share)
        answers = Generator(engine, 1).generate(prompts, options, lambda *_: None)
        found[share] = dict(answers)
    assert found[True] == found[False]


def tree() -> list[ScoringRequest]:
    """Requests whose beginnings branch twice, the second time within a piece of the first."""
    shared, *middles = tokens(4, 60)[:, :60].tolist()
    ends = tokens(9, 5, seed=1).tolist()
    middles = [middles[0], [*middles[0][:30], *middles[1][:20]], middles[2]]
    texts = [[*shared, *middles[i // 3], *end] for i, end in enumerate(ends)]
    return [ScoringRequest(text, len(text) - 3, 126) for text in texts]


SHARING = ["none", "dynamic_ntk", "clex", "self_extend", "lm_infinite", "dca"]


@pytest.mark.parametrize("name", SHARING)
def test_what_is_known_already_changes_no_bit_of_a_score(name):
    """A killed run goes on over the requests that are left; equal pieces make equal bits."""
    model = extended(name)
    requests = tree()
    scorer = scorer_of(model)
    whole = dict(scorer.score(requests))
    for wanted in ([8], [2, 4], [5, 6, 7], []):
        found = dict(scorer.score(requests, wanted))
        assert sorted(found) == wanted
        for number, score in found.items():
            assert torch.equal(score.logprobs, whole[number].logprobs)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_known_already_changes_no_bit_of_a_batch(batch_size):
    model = extended("pi")
    ids = tokens(9, 40).tolist()
    requests = [ScoringRequest(row[: 40 - number], 3) for number, row in enumerate(ids)]
    scorer = scorer_of(model, batch_size=batch_size)
    whole = dict(scorer.score(requests))
    found = dict(scorer.score(requests, [1, 6]))
    assert sorted(found) == [1, 6]
    assert all(torch.equal(found[i].logprobs, whole[i].logprobs) for i in found)


def test_scores_are_computed_as_they_are_asked_for_and_leave_gradients_on():
    """What was yielded is kept by whoever asks before the next is computed."""
    model = extended("pi")
    scorer = scorer_of(model, share_prefixes=False)
    calls = []
    model.base_model.register_forward_pre_hook(lambda *_: calls.append(1))
    scores = scorer.score([ScoringRequest(row, 3) for row in tokens(3, 40).tolist()])
    for count, (_, score) in enumerate(scores, start=1):
        assert len(calls) == count
        assert torch.is_grad_enabled()
        assert not score.logprobs.requires_grad
    assert len(calls) == 3


def test_rows_longer_than_a_chunk_are_fed_in_chunks_whatever_the_batch_size():
    model = extended("pi")
    scorer = scorer_of(model, batch_size=2, prefill_chunk=20, share_prefixes=False)
    widths = []
    model.base_model.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    dict(scorer.score([ScoringRequest(row, 3) for row in tokens(2, 40).tolist()]))
    assert widths == [20, 19] * 2


def test_no_token_is_fed_twice_for_being_cut():
    model = extended("pi")
    requests = tree()
    scorer = scorer_of(model)
    fed: list[int] = []
    model.base_model.register_forward_pre_hook(lambda _, args: fed.append(args[0].shape[1]))
    dict(scorer.score(requests))
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
    request = ScoringRequest(ids, length - 500, length)
    whole, pieces = (
        dict(scorer_of(model, prefill_chunk=chunk).score([request]))[0] for chunk in (length, 8192)
    )
    # float32 sums over 64k keys in another order
    torch.testing.assert_close(pieces.logprobs, whole.logprobs, rtol=0, atol=1e-4)
    assert pieces.greedy == whole.greedy
