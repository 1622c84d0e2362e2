"""Many-shot classification: prompts as Bertsch et al., constrained decoding as a real decoder's."""

import json
import math
import random

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from ctxbench.core.assets import resolve_model
from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks.leaf_files import tasks_path
from ctxbench.tasks.manyshot import dataset, mini, trec
from ctxbench.tasks.manyshot import leaves as leaf_module
from ctxbench.tasks.manyshot.labels import greedy_label, label_trie
from tests.tasks.reference_lm import ReferenceLM, tiny_model

MINI = resolve_model("mini")


@pytest.fixture(scope="module")
def bertsch(data_dir):
    return json.loads((data_dir / "trec" / "bertsch_trec_seed43.json").read_text())


def manager(**metadata):
    metadata = {"tokenizer": "mini", **metadata}
    return TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)


def test_orders_and_questions_are_those_of_the_published_runs(bertsch):
    assert trec.asked_lines() == bertsch["test_ids"]
    assert len(bertsch["runs_train_file_lines"]) == 10
    for run, lines in enumerate(bertsch["runs_train_file_lines"]):
        assert list(trec.shot_lines(run)[:1000]) == lines
    assert trec.shot_lines(0, seed=1) != trec.shot_lines(0)
    assert sorted(trec.shot_lines(0, seed=1)) == sorted(trec.shot_lines(0))


def test_prompts_equal_the_published_format_in_all_runs(data_dir, bertsch):
    """The prompt made here by hand from the files and the published line numbers."""

    def lines(name):
        text = (data_dir / "trec" / name).read_bytes().decode("latin-1")
        return [line.split(" ", 1) for line in text.replace("\xf0", " ").splitlines()]

    train, test = lines("train_5500.label"), lines("TREC_10.label")
    words = bertsch["coarse_label_words"]
    shot = bertsch["prompt"].replace("\\n", "\n")
    name = "trec_coarse_1000shot"
    task = manager(data_dir=str(data_dir), samples=3).load([name])["tasks"][name]
    task.build_all_requests(rank=0, world_size=1)
    prompts = {(r.doc["run"], r.doc["question"]): r.args[0] for r in task.instances}
    assert len(prompts) == 30
    for run, shots in enumerate(bertsch["runs_train_file_lines"]):
        for line in bertsch["test_ids"][:3]:
            parts = [
                shot.format(q=train[i][1], label=words[train[i][0].split(":")[0]]) for i in shots
            ]
            parts.append(f"Question: {test[line][1]}\nType:")
            assert prompts[run, test[line][1]] == bertsch["shot_separator"].join(parts)


def test_shots_are_nested(data_dir):
    options = dataset.Options(samples=2, data_dir=str(data_dir))
    few, many = (dataset.trec_run("fine", shots, 3, options) for shots in (5, 50))
    assert many.shots[:5] == few.shots
    assert many.questions == few.questions
    assert len(few.labels) == len(set(few.labels)) == 50
    assert set(trec.FINE) == {
        code for code, _ in trec.read_questions("train_5500.label", str(data_dir))
    }


def brute_force_decode(model, tokenizer, prompt, labels):
    """Write a label token by token, every token that continues no label forbidden."""
    start = tokenizer(prompt)["input_ids"]
    endings = {label: tokenizer(f"{prompt} {label}")["input_ids"][len(start) :] for label in labels}
    written = []
    while len(endings) > 1:
        logits = model(torch.tensor([start + written])).logits[0, -1]
        allowed = {ids[len(written)] for ids in endings.values()}
        forbidden = torch.full_like(logits, -math.inf)
        forbidden[list(allowed)] = 0
        written.append((logits + forbidden).argmax().item())
        endings = {k: ids for k, ids in endings.items() if ids[: len(written)] == written}
    return next(iter(endings))


@torch.no_grad()
@pytest.mark.parametrize("granularity", ["coarse", "fine"])
def test_constrained_decoding_equals_a_trie_search(granularity):
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    labels = list((trec.COARSE if granularity == "coarse" else trec.FINE).values())
    trie = label_trie(labels, tokenizer, "Question: x\nType:")
    written, likeliest = [], []
    for seed in range(6):
        lm = ReferenceLM(tiny_model(1280, seed=seed % 3), MINI)
        rng = random.Random(seed)
        prompt = f"Question: {' '.join(rng.choices(mini.NOUNS, k=5))} ?\nType:"
        scores = [lm.continuation(prompt, text)[0] for text in trie.continuations]
        written.append(labels[greedy_label(scores, trie.paths)])
        likeliest.append(labels[max(range(len(labels)), key=scores.__getitem__)])
        assert written[-1] == brute_force_decode(lm.model, tokenizer, prompt, labels)
    assert written != likeliest, "this test must see the two scorings differ"


def test_the_trie_stops_where_one_label_is_left():
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    trie = label_trie(["human title", "human group", "location city"], tokenizer, "Type:")
    texts = [[trie.continuations[i] for i in path] for path in trie.paths]
    assert texts == [[" h", " human t"], [" h", " human g"], [" l"]]
    assert greedy_label([0, 0, 0, -1, -5, -2, -3], trie.paths) == 1


def test_labels_that_no_decoder_can_tell_apart_are_refused():
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    with pytest.raises(ValueError, match=r"'red' is the beginning of label 'red wine'"):
        label_trie(["red wine", "red"], tokenizer, "Type:")


def test_llama_pieces_need_no_branch_text_that_is_cut_otherwise(data_dir):
    pytest.importorskip("sentencepiece")
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "llama_tokenizer")
    trie = label_trie(list(trec.FINE.values()), tokenizer, "Question: x\nType:")
    assert len(trie.continuations) == 58
    assert len(label_trie(list(trec.COARSE.values()), tokenizer, "Type:").continuations) == 7


def test_trec_runs_from_its_files(data_dir):
    lm = ReferenceLM(tiny_model(1280), MINI)
    tasks = manager(data_dir=str(data_dir), runs=2, samples=2)
    out = simple_evaluate(
        model=lm, tasks=["trec_coarse_1shot"], task_manager=tasks, bootstrap_iters=0
    )
    result = out["results"]["trec_coarse_1shot"]
    assert out["n-samples"]["trec_coarse_1shot"]["original"] == 4
    assert {"acc,none", "acc_constrained,none", "acc_sd,none"} <= set(result)


def test_shared_prefixes_change_no_score(data_dir):
    """ctxext answers all labels of all questions from one cache; the reference reads each anew."""
    name = "trec_coarse_5shot"
    model = tiny_model(1280)
    both = []
    for lm in (ReferenceLM(model, MINI), CtxExt(model, tokenizer=MINI, device="cpu")):
        tasks = manager(data_dir=str(data_dir), runs=1, samples=3)
        out = simple_evaluate(
            model=lm, tasks=[name], task_manager=tasks, bootstrap_iters=0, log_samples=True
        )
        samples = out["samples"][name]
        both.append([r[0][0] for s in samples for r in s["resps"]])
        both.append([(s["acc"], s["acc_constrained"]) for s in samples])
    assert both[0] == pytest.approx(both[2], abs=1e-5)  # each token's score kept in float32
    assert both[1] == both[3]


def test_mean_and_spread():
    doc = {"label": 1, "paths": [[0], [1]], "run": 0}
    scored = dataset.process_results(doc, [(-2.0, False), (-1.0, True)])
    assert (scored["acc"], scored["acc_constrained"], scored["acc_sd"]) == (1.0, 1.0, (0, 1.0))
    items = [(0, 1.0), (0, 1.0), (1, 0.0), (1, 1.0)]
    assert dataset.spread(items) == pytest.approx(math.sqrt(0.125))
    assert math.isnan(dataset.spread(items[:2]))


def test_the_papers_form(data_dir):
    name = "trec_coarse_50shot_lceg"
    tasks = manager(data_dir=str(data_dir), samples=2, lceg_window=300).load([name])["tasks"]
    doc = tasks[name].eval_docs[0]
    assert doc["truncated"]
    assert abs(doc["prompt_tokens"] - 300) <= 2  # the seam
    assert doc["prompt"].startswith("Please determine the type of the question below.")
    assert doc["prompt"].endswith("\nType:")
    generation = f"\n{doc['answers'][0]}\nQuestion: next\nType: other"
    assert dataset.process_lceg(doc, [generation])["acc_lceg"] == 1.0
    tasks[name].build_all_requests(rank=0, world_size=1)
    assert tasks[name].instances[0].args[1]["ctx_overflow"] == "allow"


def test_mini_task_can_be_done_by_looking_up():
    labels, entries = mini.dictionary(0, 43)
    shots = mini.shots(entries, 0, 43)
    assert len(set(labels)) == 8
    assert all(dict(entries)[word] == label for word, label in shots)
    known = [len(dict(shots[:k]).keys()) / mini.WORDS for k in leaf_module.MINI_SHOTS]
    assert known == sorted(known)
    assert known[0] < 0.2
    assert known[-1] > 0.9


def test_the_mini_model_climbs_with_the_shots():
    """Chance is 1/8; the words shown at least once are about 12 % after 4 shots, 64 % after 32."""
    names = ["mini_manyshot_4shot", "mini_manyshot_32shot"]
    out = simple_evaluate(
        model=CtxExt("mini", device="cpu"),
        tasks=names,
        task_manager=manager(runs=1, samples=12),
        bootstrap_iters=0,
    )
    few, many = (out["results"][name]["acc_constrained,none"] for name in names)
    assert few < 0.4
    assert many > 0.6


def test_damaged_and_missing_files(tmp_path, data_dir, monkeypatch):
    monkeypatch.delenv("CTXBENCH_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="ctxbench data fetch trec"):
        trec.read_questions("TREC_10.label", str(tmp_path))
    content = (data_dir / "trec" / "TREC_10.label").read_bytes()
    (tmp_path / "TREC_10.label").write_bytes(content.replace(b"\n", b"\r\n"))
    assert len(trec.read_questions("TREC_10.label", str(tmp_path))) == 500
    (tmp_path / "TREC_10.label").write_bytes(content.replace(b"'", b""))
    with pytest.raises(ValueError, match="apostrophes"):
        trec.read_questions("TREC_10.label", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "metadata", "words"),
    [
        ("trec_fine_100shot", {"length": 1024}, "trec_fine_100shot has prompts of .* is 1024"),
        ("trec_fine_100shot", {"max_length": 512}, "window is 512 tokens"),
        ("mini_manyshot_32shot", {"length": 128}, "mini_manyshot_32shot has prompts of .* is 128"),
        ("trec_fine_100shot_lceg", {"length": "1k"}, "trec_fine_100shot_lceg has prompts of"),
        ("trec_fine_100shot", {"runs": 0}, "trec_fine_100shot: .*runs=0"),
    ],
)
def test_what_the_model_cannot_hold_is_told_when_the_task_is_built(data_dir, name, metadata, words):
    with pytest.raises(ValueError, match=words):
        manager(data_dir=str(data_dir), **{"runs": 1, "samples": 2} | metadata).load([name])


def test_a_window_that_holds_the_shots_will_do(data_dir):
    options = {"data_dir": str(data_dir), "runs": 1, "samples": 2}
    manager(length="8k", **options).load(["trec_fine_100shot"])
    # 300 tokens of prompt and no room for the answer, which the paper's form means to be so
    manager(length=300, lceg_window=300, **options).load(["trec_fine_100shot_lceg"])


def test_counts_are_checked(data_dir):
    with pytest.raises(ValueError, match="up to 250"):
        dataset.docs("coarse", 1, samples=251, tokenizer="mini", data_dir=str(data_dir))
    with pytest.raises(ValueError, match="runs=0"):
        dataset.docs("mini", 4, runs=0, tokenizer="mini")

    assert len(leaf_module.leaves(None)) == 4 * 16 + 7
