"""Continuations of long contexts get the tokens that lm-eval's own way gives them."""

from types import SimpleNamespace

import pytest
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from ctxbench.core.assets import resolve_model
from ctxbench.models.ctxext import CtxExt
from ctxbench.models.text_encoding import continue_tail, short_tail, split_by_size
from ctxbench.tasks.manyshot import dataset
from tests.tasks.reference_lm import tiny_model

CONTINUATIONS = [" human title", " a", "b", "\n", " ", "==", "\n\nQ", "é", "12", " human"]


def lm_with(tokenizer, **kwargs):
    model = tiny_model(len(tokenizer)).float()
    return CtxExt(model, tokenizer=tokenizer, device="cpu", **kwargs)


@pytest.mark.parametrize("name", ["mini", "tok", "llama_tokenizer"])
def test_pairs_equal_those_of_lm_eval(name, request):
    path = resolve_model(name)
    if path == name:
        path = request.getfixturevalue("data_dir") / name
    if name == "llama_tokenizer":
        pytest.importorskip("sentencepiece")
    tokenizer = AutoTokenizer.from_pretrained(path)
    # tokenizer.model alone does not say that Llama adds BOS
    lm = lm_with(tokenizer, add_bos_token=False if name == "llama_tokenizer" else None)
    contexts = [
        "Question: who wrote it ?\nType: human\n==\n" * 80 + f"Question: {end}"
        for end in ("what is x ?\nType:", "what ?\nType: ", "no", "café\n\n", "=\n=")
    ]
    contexts += ["no line end " * 300, "short\ntext"]
    for context in contexts:
        for continuation in CONTINUATIONS:
            before, after = HFLM._encode_pair(lm, context, continuation)
            found = lm._encode_pair(context, continuation)
            if after:
                assert found == (before, after), (context[-20:], continuation)
            else:  # all of it merged with the context: nothing could be scored
                assert found[0] == before
                assert found[1], (context[-20:], continuation)


def test_the_prompt_is_tokenised_once_for_all_labels(data_dir):
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("mini"))
    run = dataset.trec_run("fine", 50, 0, dataset.Options(samples=1, data_dir=str(data_dir)))
    prompt = dataset.BERTSCH.shots(run.shots) + "Question: what ?\nType:"
    encoded = []
    plain = HFLM.tok_encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            CtxExt.__bases__[0],
            "tok_encode",
            lambda self, text, *a, **k: encoded.append(len(text)) or plain(self, text, *a, **k),
        )
        lm = lm_with(tokenizer)
        for label in run.labels:
            lm._encode_pair(prompt, f" {label}")
    assert sum(size >= len(prompt) for size in encoded) == 1


def test_a_cut_that_the_continuation_reaches_is_not_trusted():
    words = {"a": [1], "ab": [2]}

    def encode(text):
        return words[text]

    assert short_tail("x\na", [9, 8, 1], encode) == ("a", [1])
    assert short_tail("x\na", [9, 8, 7], encode) is None
    assert short_tail("xa", [9, 1], encode) is None
    assert continue_tail(("a", [1, 5]), "b", encode) is None


def test_parts_keep_order_and_bound():
    requests = [SimpleNamespace(args=("x" * size, "")) for size in (3, 3, 9, 1, 1)]
    sizes = [[len(r.args[0]) for r in part] for part in split_by_size(requests, limit=6)]
    assert sizes == [[3, 3], [9], [1, 1]]
    assert list(split_by_size([])) == []
