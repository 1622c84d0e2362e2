"""Landmark is transparent: users give and get their own tokens."""

import copy

import pytest
import torch

from ctxbench.methods.attach import method_of
from ctxbench.methods.landmark import Landmark
from ctxbench.methods.registry import get_method
from ctxbench.models.loading import extend
from tests.methods.tiny import ARCHITECTURES, tiny_config, tiny_model, tokens

SMALL = {"block": 8, "top_k": 2, "trained_length": 40, "length": 512}
ROUNDING = 5e-5
"""Logits of size up to 10; RMSNorm, cos and sin are float32 inside."""


def small(architecture="llama", **options):
    """In float64, where rounding does not decide which of equal blocks is retrieved."""
    return extend(tiny_model(architecture).double(), "landmark", **{**SMALL, **options})


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(ids, **kwargs).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_within_the_first_block_it_is_the_plain_model(architecture):
    plain = tiny_model(architecture).double()
    ids = tokens(2, 6)
    found = logits(small(architecture), ids)
    assert found.shape == (2, 6, 101)
    torch.testing.assert_close(found[..., :100], logits(plain, ids), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("landmark_in_loss", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chunked_prefill_equals_one_pass(architecture, landmark_in_loss):
    model = small(architecture, landmark_in_loss=landmark_in_loss)
    ids = tokens(2, 90)
    expected = logits(model, ids)
    cache, found = None, []
    for piece in ids.split([21, 2, 7, 40, 20], dim=1):
        with torch.no_grad():
            out = model(piece, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        found.append(out.logits)
        assert cache.get_seq_length() == sum(part.shape[1] for part in found)
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=0, atol=ROUNDING)


def rows_of_different_phase(*lengths):
    rows = [tokens(1, n, seed=n) for n in lengths]
    width = max(lengths)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - row.shape[1] :], mask[i, width - row.shape[1] :] = row[0], 1
    return rows, ids, mask


def test_padded_rows_equal_single_rows():
    model = small()
    rows, ids, mask = rows_of_different_phase(61, 45, 5)
    found = logits(model, ids, attention_mask=mask)
    for i, row in enumerate(rows):
        torch.testing.assert_close(
            found[i][mask[i].bool()], logits(model, row)[0], rtol=0, atol=ROUNDING
        )


@pytest.mark.parametrize("beams", [1, 3])
def test_batched_generation_equals_single(beams):
    model = small()
    how = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False, "num_beams": beams}
    rows, ids, mask = rows_of_different_phase(33, 26, 9)
    together = model.generate(ids, attention_mask=mask, **how)[:, 33:]
    for row, found in zip(rows, together, strict=True):
        alone = model.generate(row, attention_mask=torch.ones_like(row), **how)
        assert found.equal(alone[0, row.shape[1] :])
        assert (found < 100).all() or 100 in found  # users may see the token only if it is chosen


def test_training_sees_no_future_and_needs_no_user_landmarks():
    model = small().train()
    method = method_of(model)
    ids = tokens(1, 60)
    batch = method.edit_batch({"input_ids": ids, "labels": ids}, torch.Generator())
    assert batch["input_ids"].shape == (1, 68)
    assert (batch["input_ids"] == 100).nonzero()[:, 1].tolist() == list(range(7, 68, 8))
    changed = batch["input_ids"].clone()
    changed[0, 40] = 99 if changed[0, 40] != 99 else 98
    before, after = logits(model, batch["input_ids"]), logits(model, changed)
    assert before[:, :40].equal(after[:, :40])
    assert not before[:, 40:].allclose(after[:, 40:])


def test_inference_sees_no_future():
    model = small()
    ids = tokens(1, 90)
    changed = ids.clone()
    changed[0, 60] = 99 if changed[0, 60] != 99 else 98
    before, after = logits(model, ids), logits(model, changed)
    torch.testing.assert_close(before[:, :60], after[:, :60], rtol=0, atol=ROUNDING)
    assert not before[:, 60:].allclose(after[:, 60:])


def test_training_batches_with_padding():
    method = get_method("landmark", block=4, token_id=99, landmark_in_loss=False, top_k=1)
    batch = {
        "input_ids": torch.tensor([[0, 0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10]]),
        "labels": torch.tensor([[-100, -100, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]),
    }
    found = method.edit_batch(batch, torch.Generator())
    assert found["input_ids"].tolist() == [[1, 2, 3, 99, 4, 99, 99], [5, 6, 7, 99, 8, 9, 10]]
    assert found["labels"].tolist() == [[1, 2, 3, -100, 4, -100, -100], [5, 6, 7, -100, 8, 9, 10]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0], [1] * 7]


def test_all_blocks_retrieved_equals_training_attention():
    """With every block among the last top_k, positions are true and nothing is left out."""
    model = small(top_k=30, trained_length=40 * 8)
    ids = tokens(1, 200)
    expected = logits(small(trained_length=10_000), ids)  # one chunk
    torch.testing.assert_close(logits(model, ids), expected, rtol=0, atol=ROUNDING)


def test_new_embeddings_are_the_mean_of_the_old():
    plain = tiny_model()
    model = extend(copy.deepcopy(plain), "landmark", **SMALL)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(plain, get)().weight, getattr(model, get)().weight
        assert new.shape[0] == 101
        torch.testing.assert_close(new[100], old.mean(0), rtol=0, atol=1e-6)
        assert new[:100].equal(old)
    assert model.config.vocab_size == 101


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 64, "top_k": 5, "trained_length": 400}, "must be at least 448"),
        ({"block": 1}, "block"),
        ({"top_k": -1}, "top_k"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Landmark(**options).resolve(tiny_config())


def test_other_inputs_are_refused():
    model = small()
    with pytest.raises(ValueError, match="input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 64))


@pytest.mark.parametrize("how", [{"batch_size": 1}, {"batch_size": 4}, {"prefill_chunk": 20}])
def test_scoring_equals_the_forward_pass(how):
    from ctxbench.models.engine import Engine
    from ctxbench.models.requests import ScoringRequest
    from ctxbench.models.scoring import Scorer

    model = small()
    requests = [ScoringRequest(tokens(n, seed=n).tolist(), n - 5) for n in (81, 62, 33)]
    scores = dict(Scorer(Engine(model, method_of(model), **how)).score(requests))
    assert len(scores) == len(requests)
    for number, score in scores.items():
        request = requests[number]
        ids = torch.tensor(request.ids)
        expected = logits(model, ids[None, :-1])[0].log_softmax(-1)
        expected = expected.gather(1, ids[1:, None])[request.first - 1 :, 0]
        torch.testing.assert_close(score.logprobs, expected.float(), rtol=0, atol=ROUNDING)
