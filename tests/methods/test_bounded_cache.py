"""The bounded cache forgets, and nobody notices."""

import pytest
import torch

from ctxbench.methods.attach import method_of
from ctxbench.validate.tiny import ARCHITECTURES, tokens
from tests.methods.test_attention import ROUNDING, logits, with_method

METHODS = {"lm_infinite": 12 + 3 - 1, "streaming_llm": 11 + 3}
"""Tokens that are kept."""


def fed_in_pieces(model, ids, sizes, mask=None):
    cache, found = method_of(model).bounded_cache(), []
    for piece in ids.split(sizes, dim=1):
        at = sum(part.shape[1] for part in found) + piece.shape[1]
        part = None if mask is None else mask[:, :at]
        with torch.no_grad():
            out = model(piece, attention_mask=part, past_key_values=cache, use_cache=True)
        found.append(out.logits)
    return torch.cat(found, 1), cache


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", METHODS)
def test_pieces_of_any_size_equal_one_pass(name, architecture):
    model = with_method(name, architecture)
    ids = tokens(2, 80)
    expected = logits(model, ids)
    for sizes in ([30, 1, 1, 1, 3, 20, 1, 23], [1] * 80):
        found, cache = fed_in_pieces(model, ids, sizes)
        torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)
        assert all(layer.keys.shape[2] == METHODS[name] for layer in cache.layers)
        assert cache.get_seq_length() == 80


@pytest.mark.parametrize("name", METHODS)
def test_padded_rows_equal_single_rows(name):
    model = with_method(name)
    ids, mask = tokens(3, 60), torch.ones(3, 60, dtype=torch.long)
    mask[0, :25], mask[1, :7] = 0, 0
    found, cache = fed_in_pieces(model, ids, [33, 1, 1, 5, 20], mask)
    for row in range(3):
        real = mask[row].bool()
        alone = logits(model, ids[row : row + 1, real])[0]
        torch.testing.assert_close(found[row][real], alone, rtol=0, atol=ROUNDING)
    assert cache.layers[0].keys.shape[2] == METHODS[name]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_generation_equals_the_growing_cache(name, beams):
    model = with_method(name)
    ids, mask = tokens(2, 30), torch.ones(2, 30, dtype=torch.long)
    mask[0, :11] = 0
    how = {"max_new_tokens": 25, "min_new_tokens": 25, "do_sample": False, "num_beams": beams}
    expected = model.generate(ids, attention_mask=mask, **how)
    cache = method_of(model).bounded_cache()
    found = model.generate(ids, attention_mask=mask, past_key_values=cache, **how)
    assert found.equal(expected)
    assert cache.layers[0].keys.shape[2] == METHODS[name]


def test_what_is_gone_is_gone():
    cache = method_of(with_method("streaming_llm")).bounded_cache()
    with_method("streaming_llm")(tokens(1, 40), past_key_values=cache)
    with pytest.raises(ValueError, match="cannot be cut back"):
        cache.crop(-1)
