"""The perplexity protocols against brute force in float64, from files, through lm-eval."""

import gzip
import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from ctxbench.core.windows import WindowedText
from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks.leaf_files import base_file, tasks_path
from ctxbench.tasks.perplexity import dataset, metrics, texts
from ctxbench.tasks.perplexity import leaves as leaf_module
from ctxbench.tasks.perplexity.protocols import (
    in_chunks,
    overlap_windows,
    prefix_windows,
    sliding_windows,
)
from tests.tasks.reference_lm import ReferenceLM, tiny_model
from tests.tasks.texts import save_tokenizer, shards, write_jsonl

LENGTH, STRIDE = 512, 256


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(tokenizer_path):
    return AutoTokenizer.from_pretrained(tokenizer_path)


@pytest.fixture(scope="module")
def lm(tokenizer_path):
    return ReferenceLM(tiny_model(1280), tokenizer_path)


def document(seed, words):
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefgh", k=rng.randint(1, 6))) for _ in range(words))


TEXTS = [document(0, 230), document(1, 330), document(2, 100)]


@pytest.fixture(scope="module")
def stream(tokenizer):
    """The three documents' ids as plain lists, made without our code."""
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def leaf(folder, protocol, length=LENGTH):
    name = f"probe_{protocol}"
    content = {
        "include": base_file("perplexity", f"_{protocol}"),
        "task": name,
        "dataset_kwargs": {
            "ctx_source": "text",
            "ctx_protocol": protocol,
            "ctx_length": length,
            "ctx_stride": STRIDE,
        },
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return name


def evaluate(folder, lm, tokenizer_path, protocol, path, **metadata):
    name = leaf(folder, protocol)
    metadata = {"tokenizer": tokenizer_path, "text_path": str(path), **metadata}
    manager = TaskManager(include_path=str(folder), include_defaults=False, metadata=metadata)
    out = simple_evaluate(model=lm, tasks=[name], task_manager=manager, bootstrap_iters=0)
    return {key.split(",")[0]: value for key, value in out["results"][name].items()}


def brute_overlap(lm, stream):
    ids = [i for part in stream for i in part]
    starts = list(range(0, len(ids) - LENGTH, STRIDE))[:-1]
    return math.exp(np.mean([lm.nll(ids[s : s + LENGTH]).mean().item() for s in starts]))


def brute_sliding(lm, stream):
    """Token by token: the window that scores t ends at the first multiple of the stride past t."""
    total, count = 0.0, 0
    for ids in (part for part in stream if len(part) >= LENGTH):
        window_end = 0
        for t in range(1, len(ids)):
            steps = max(0, math.ceil((t + 1 - LENGTH) / STRIDE))
            end = min(LENGTH + steps * STRIDE, len(ids))
            if end != window_end:
                window_end = end
                losses = lm.nll(ids[end - LENGTH : end])
            total += losses[t - 1 - (end - LENGTH)].item()
            count += 1
    return math.exp(total / count)


def brute_prefix(lm, stream):
    return math.exp(
        np.mean([lm.nll(ids[:LENGTH]).mean().item() for ids in stream if len(ids) >= LENGTH])
    )


@pytest.mark.parametrize(
    ("protocol", "brute"),
    [("overlap", brute_overlap), ("sliding", brute_sliding), ("prefix", brute_prefix)],
)
def test_a_protocol_equals_brute_force(tmp_path, lm, tokenizer_path, stream, protocol, brute):
    result = evaluate(
        tmp_path, lm, tokenizer_path, protocol, write_jsonl(tmp_path / "t.jsonl", TEXTS)
    )
    assert len({len(part) >= LENGTH for part in stream}) == 2, "want a short document among them"
    # float64 on both sides; only the order of the sums differs.
    assert result[f"ppl_{protocol}"] == pytest.approx(brute(lm, stream), rel=1e-10)
    assert result["documents_skipped"] == (0 if protocol == "overlap" else 1)


@pytest.mark.parametrize("protocol", ["overlap", "sliding", "prefix"])
def test_ctxext_gives_what_brute_force_gives(tmp_path, lm, tokenizer_path, protocol):
    path = write_jsonl(tmp_path / "t.jsonl", TEXTS)
    model = CtxExt(lm.model, tokenizer=tokenizer_path, device="cpu")
    result = evaluate(tmp_path, model, tokenizer_path, protocol, path)
    expected = evaluate(tmp_path, lm, tokenizer_path, protocol, path)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, float | list):
            # float64 weights; ctxext keeps each token's loss in float32, 6e-8 relative.
            assert result[name] == pytest.approx(value, rel=1e-6), name


def test_loss_by_position_gives_the_overlap_perplexity(tmp_path, lm, tokenizer_path):
    result = evaluate(
        tmp_path, lm, tokenizer_path, "overlap", write_jsonl(tmp_path / "t.jsonl", TEXTS)
    )
    points = result["nll_by_position"]
    assert len(points) == LENGTH // dataset.BUCKET
    tokens = [dataset.BUCKET - 1] + [dataset.BUCKET] * (len(points) - 1)
    mean = np.average(points, weights=tokens)
    assert math.exp(mean) == pytest.approx(result["ppl_overlap"], rel=1e-12)


def test_chunks_do_not_see_each_other(tmp_path, lm, tokenizer_path, stream):
    path = write_jsonl(tmp_path / "t.jsonl", TEXTS)
    result = evaluate(tmp_path, lm, tokenizer_path, "prefix", path, ppl_chunk=256)
    whole = evaluate(tmp_path, lm, tokenizer_path, "prefix", path)
    long = [ids for ids in stream if len(ids) >= LENGTH]
    second = np.mean([lm.nll(ids[256:512]).mean().item() for ids in long])
    assert result["nll_by_position"][0] == pytest.approx(whole["nll_by_position"][0], rel=1e-12)
    assert result["nll_by_position"][1] == pytest.approx(second, rel=1e-12)
    assert abs(second - whole["nll_by_position"][1]) > 1e-4


def test_lceg_landmark_reads_parts(tmp_path, lm, tokenizer_path):
    path = write_jsonl(tmp_path / "t.jsonl", TEXTS)
    found = evaluate(tmp_path, lm, tokenizer_path, "lceg_landmark", path, ppl_chunk=256)
    parts = evaluate(tmp_path, lm, tokenizer_path, "overlap", path, ppl_chunk=256)
    whole = evaluate(tmp_path, lm, tokenizer_path, "overlap", path)
    assert found["ppl_lceg_landmark"] == parts["ppl_overlap"]
    assert abs(found["ppl_lceg_landmark"] - whole["ppl_overlap"]) > 1e-3
    for name, content in leaf_module.leaves(None).items():
        if "lceg_landmark_" in name:
            assert content["dataset_kwargs"]["ctx_chunk"] == 512


def test_standard_error_is_over_documents(tmp_path, lm, tokenizer_path, stream):
    result = evaluate(
        tmp_path, lm, tokenizer_path, "prefix", write_jsonl(tmp_path / "t.jsonl", TEXTS)
    )
    means = [lm.nll(ids[:LENGTH]).mean().item() for ids in stream if len(ids) >= LENGTH]
    # Equally long documents: the ratio estimator is the plain standard error of their means.
    plain = np.std(means, ddof=1) / math.sqrt(len(means))
    assert result["ppl_prefix_se"] == pytest.approx(result["ppl_prefix"] * plain, rel=1e-9)
    assert math.isnan(metrics.perplexity_se([(0, 1.0, 1), (0, 2.0, 1)]))


def test_bits_per_byte(tmp_path, lm, tokenizer_path, stream):
    path = write_jsonl(tmp_path / "t.jsonl", TEXTS[:1])
    result = evaluate(tmp_path, lm, tokenizer_path, "prefix", path)
    nats = math.log(result["ppl_prefix"])
    tokens_per_byte = (len(stream[0]) - 1) / len(TEXTS[0].encode())
    expected = nats / math.log(2) * tokens_per_byte
    assert result["bits_per_byte"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("protocol", ["overlap", "sliding", "prefix"])
def test_a_token_file_agrees_with_its_raw_text(tmp_path, tokenizer_path, stream, dtype, protocol):
    """All that results are made of: the tokens, the windows over them, the bytes of the text."""
    path = tmp_path / "t.bin"
    np.concatenate(stream).astype(f"<u{int(dtype[4:]) // 8}").tofile(path)
    raw = write_jsonl(tmp_path / "t.jsonl", TEXTS)
    made = [shards(p, tokenizer_path, ctx_protocol=protocol, bin_dtype=dtype) for p in (path, raw)]
    assert made[0]["shared"].tolist() == made[1]["shared"].tolist()
    rows = [m["test"].remove_columns("file").to_list() for m in made]
    assert rows[0] == rows[1]


def test_the_reference_codes_document_cut(tokenizer, stream):
    """Ten documents end where the first token occurs for the eleventh time."""
    ids = np.concatenate(stream * 5)
    kept = texts.split_at_bos(ids, tokenizer.bos_token_id, 10)
    assert sum(part.size for part in kept) == np.flatnonzero(ids == ids[0])[10]
    assert [part.tolist() for part in kept] == (stream * 4)[:10]


def test_two_processes_give_the_result_of_one(tmp_path, lm, tokenizer_path):
    """The aggregation over the shards of both ranks, dealt out as lm-eval deals them."""
    name = leaf(tmp_path, "overlap")
    path = write_jsonl(tmp_path / "t.jsonl", [document(9, 12000)])
    metadata = {"tokenizer": tokenizer_path, "text_path": str(path)}
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False, metadata=metadata)
    task = manager.load([name])["tasks"][name]

    def gathered(world_size):
        values = []
        for rank in range(world_size):
            task.build_all_requests(rank=rank, world_size=world_size)
            for request in task.instances:
                fake = {"sums": [], "positions": [0.0, 0.0]}
                for start, first, end in request.args[0].windows:
                    ids = request.args[0].ids[start:end]
                    fake["sums"].append(sum(ids[first - start :]) / 1e3)
                values.append(task.process_results(request.doc, [fake])["ppl_overlap"])
        assert len(values) == len(task.eval_docs) >= 4
        return metrics.perplexity(values)

    assert gathered(2) == gathered(1)


@pytest.mark.slow
def test_two_torchrun_processes_give_the_result_of_one(tmp_path):
    """Two starts of lm-eval with the bundled model on CPU."""
    path = write_jsonl(tmp_path / "t.jsonl", [document(seed, 900) for seed in range(4)])
    results = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        command = f"""
            -m torch.distributed.run --nproc-per-node {processes} -m lm_eval --model ctxext
            --device cpu --model_args pretrained=mini,method=dynamic_ntk,length=2048
            --tasks text_ppl_2k --include_path {tasks_path()} --output_path {out} --metadata
        """
        subprocess.run(
            [sys.executable, *command.split(), json.dumps({"text_path": str(path)})],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        (file,) = out.rglob("results_*.json")
        results.append(json.loads(file.read_text())["results"]["text_ppl_2k"])
    assert results[0] == results[1]
    assert results[0]["sample_len"] > 2, "want shards for both processes"


def test_window_plans():
    assert overlap_windows(1100, 512, 256) == [(0, 1, 512), (256, 257, 768)]
    assert overlap_windows(768, 512, 256) == []
    for n in (512, 513, 767, 768, 769, 2000):
        windows = sliding_windows(n, 512, 256)
        scored = [t for _, first, end in windows for t in range(first, end)]
        assert scored == list(range(1, n))
        assert all(end - start == 512 for start, _, end in windows)
    assert prefix_windows(511, 512, 256) == []
    assert in_chunks((10, 11, 31), 10) == [(10, 11, 20), (20, 21, 30)]


def test_cost_is_told_before_the_run(tmp_path, tokenizer_path, caplog):
    path = write_jsonl(tmp_path / "t.jsonl", TEXTS)
    with caplog.at_level("INFO", logger="ctxbench"):
        dataset.shards("text", "prefix", 512, tokenizer=tokenizer_path, text_path=str(path))
    assert "2 windows of 2 documents" in caplog.text
    assert "1024 tokens to read, 1022 to score" in caplog.text
    assert "1 documents of t.jsonl left out" in caplog.text


def test_other_models_get_a_clear_message(tmp_path, lm, tokenizer_path):
    request = WindowedText([1, 2, 3], [[0, 1, 3]])
    with pytest.raises(ValueError, match="--model ctxext"):
        request.startswith("<s>")
    name = leaf(tmp_path, "prefix")
    path = write_jsonl(tmp_path / "t.jsonl", TEXTS)
    metadata = {"tokenizer": tokenizer_path, "text_path": str(path)}
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False, metadata=metadata)
    with pytest.raises(ValueError, match="--model ctxext"):
        simple_evaluate(model="dummy", tasks=[name], task_manager=manager, bootstrap_iters=0)


def test_stock_hf_refuses_before_it_computes(tmp_path, tokenizer_path):
    name = leaf(tmp_path, "prefix")
    tiny_model(1280).float().save_pretrained(tmp_path / "model")
    path = write_jsonl(tmp_path / "t.jsonl", TEXTS)
    metadata = {"tokenizer": tokenizer_path, "text_path": str(path)}
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False, metadata=metadata)
    args = {"pretrained": str(tmp_path / "model"), "tokenizer": tokenizer_path}
    with pytest.raises(ValueError, match="--model ctxext"):
        simple_evaluate(
            model="hf",
            model_args=args,
            device="cpu",
            tasks=[name],
            task_manager=manager,
            bootstrap_iters=0,
        )


@pytest.mark.parametrize("window", [(0, 0, 2), (2, 1, 3), (1, 2, 2), (-1, 1, 2), (0, 1, 4)])
def test_a_window_that_scores_nothing_or_leaves_the_text_is_named(window):
    with pytest.raises(ValueError, match="of 3 tokens makes no sense"):
        WindowedText([1, 2, 3], [(0, 1, 3), window])


def test_requests_survive_pickling_and_differ():
    import pickle

    request = WindowedText([1, 2, 3], [[0, 1, 3]], 2)
    copy = pickle.loads(pickle.dumps(request))
    assert copy == request
    assert vars(copy) == vars(request)
    assert request != WindowedText([1, 2, 4], [[0, 1, 3]], 2)


def test_pg19_and_proof_pile_files_in_their_own_schema(tmp_path, monkeypatch, tokenizer_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns = ("short_book_title", "publication_date", "url", "text")
    table = pa.table({name: [f"{text}" for text in TEXTS] for name in columns})
    parquet.write_table(table, tmp_path / "pg19_test.parquet")
    long = [" ".join([text] * 120) for text in TEXTS]
    with gzip.open(tmp_path / "proofpile_test.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": t, "meta": {}}) + "\n" for t in [TEXTS[0], *long])
    monkeypatch.setenv("CTXBENCH_DATA", str(tmp_path))
    pg19 = dataset.shards("pg19", "prefix", 512, tokenizer=tokenizer_path)
    assert sorted(set(pg19["test"]["document"])) == [0, 1]
    proof_pile = dataset.shards("proof_pile", "overlap", 8192, tokenizer=tokenizer_path)
    assert proof_pile["test"][0]["skipped"] == 1


def test_every_leaf_and_group_is_found_by_lm_eval():
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    names = set(leaf_module.leaves(None))
    assert names <= set(manager.all_tasks)
    assert {"pg19_ppl_32k", "proof_pile_ppl_sliding_64k", "text_ppl_prefix_2k"} <= names
