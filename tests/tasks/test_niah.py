"""Needle grids: exact lengths, clean prompts, scores that can be 1 and 0."""

import functools
import json
import random

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from ctxbench.core.assets import resolve_model
from ctxbench.core.lengths import LADDER
from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks import needle_grid
from ctxbench.tasks.leaf_files import constants_of, tasks_path
from ctxbench.tasks.needle_grid import DEPTHS, GridSettings
from ctxbench.tasks.niah import dataset, haystack, metrics, study
from ctxbench.tasks.niah.metrics import EXPECTED, overlap, rouge1_x10
from ctxbench.tasks.niah.needles import CLASSIC
from ctxbench.tasks.passkey import dataset as passkey
from ctxbench.tasks.token_count import TokenCounter, render
from ctxbench.tasks.tokenizer import load_tokenizer

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
TOKENIZERS = ["mini", "tok", "llama_tokenizer"]
FAMILIES = {
    "niah": (dataset.GRIDS["niah"], dataset.load, dataset.doc_to_text),
    "niah_lceg": (
        dataset.GRIDS["niah_lceg"],
        functools.partial(dataset.load, ctx_grid="niah_lceg"),
        dataset.doc_to_text,
    ),
    "passkey": (passkey.GRID, passkey.load, passkey.doc_to_text),
}


@pytest.fixture(scope="module", autouse=True)
def data(data_dir):
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXBENCH_DATA", str(data_dir))
    yield data_dir
    patch.undo()


def path_of(tokenizer, data):
    return tokenizer if tokenizer == "mini" else str(data / tokenizer)


def tokens_of(name, text):
    return load_tokenizer(name)(text).input_ids


# ---------------------------------------------------------------------- prompts


def check_lengths(name, family, length, samples):
    """Every prompt: counted right, within the length, and one sentence more would be too long."""
    grid, load, text_of = FAMILIES[family]
    chosen = {} if family == "niah_lceg" else {"samples": samples}
    docs = load(ctx_length=length, tokenizer=name, **chosen)["test"]
    bos = load_tokenizer(name).bos_token_id
    hay = grid.haystack(None)
    longer = []
    for doc in docs:
        text = text_of(doc)
        ids = tokens_of(name, text)
        assert len(ids) == doc["tokens"]
        assert len(ids) + grid.frame.new_tokens <= length
        assert bos not in ids[1:], "a beginning inside the prompt"
        assert text.count(doc["needle"]) == 1
        end = hay.sentence_starts(doc["end"] + 1, doc["end"] + 2000)[0]
        more = tokens_of(name, text_of(dict(doc, end=end)))
        longer.append(len(more) + grid.frame.new_tokens)
        if doc["depth"] == 1.0:  # the ten depths of a run have one haystack, so they share a limit
            if family == "niah_lceg":
                around = grid.frame.head + grid.frame.tail.format(question=doc["question"])
                context = len(ids) - len(tokens_of(name, around))
                more_context = context + len(more) - len(ids)
                # the joints with the frame cost or save a token or two
                assert context - 3 <= length - 200 < more_context + 3
            else:
                assert max(longer) > length, "a sentence more would have fitted"
            longer = []


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    ("family", "length"),
    [("niah", 1024), ("niah", 4096), ("passkey", 1024), ("niah_lceg", 1000), ("niah_lceg", 4256)],
)
def test_prompts_have_their_length(data, tokenizer, family, length):
    check_lengths(path_of(tokenizer, data), family, length, 20)


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_every_task_have_their_length(data, tokenizer, family):
    for length in dataset.LCEG_LENGTHS if family == "niah_lceg" else LADDER:
        check_lengths(path_of(tokenizer, data), family, length, 50 if length <= 16384 else 10)


def test_the_haystack_is_the_essays_with_the_needle_between_sentences(data):
    essays = haystack.load_haystack()
    name = path_of("llama_tokenizer", data)
    for doc in dataset.load(4096, tokenizer=name)["test"]:
        words = essays.words_to(doc["end"])
        text = dataset.doc_to_text(doc)
        start, end = text.index("<book> ") + 7, text.index(" </book>")
        hidden = text[start:end]
        assert " ".join(hidden.replace(doc["needle"], "").split()) == " ".join(
            words[doc["start"] : doc["end"]]
        )
        before = text[start : text.index(doc["needle"])]
        starts = essays.sentence_starts(doc["start"], doc["end"] + 1)
        assert doc["start"] + len(before.split()) in [*starts, doc["end"]]
        # At or before its depth, by less than the longest of some 150 sentences.
        assert doc["depth"] - 0.1 < doc["position"] <= doc["depth"] + 1e-6


def test_the_samples_of_a_run_differ_in_the_place_alone(data):
    docs = dataset.load(4096, tokenizer=path_of("tok", data))["test"]
    for run in range(5):
        members = [doc for doc in docs if doc["run"] == run]
        assert [doc["depth"] for doc in members] == [depth / 100 for depth in DEPTHS]
        assert len({(d["start"], d["end"], d["needle"], d["answer"]) for d in members}) == 1
        assert max(d["tokens"] for d in members) - min(d["tokens"] for d in members) <= 2
    kinds = ["classic"] * 10 + ["random"] * 40
    assert docs["kind"] == kinds
    assert len(set(docs["answer"])) == 5
    assert DEPTHS == (0, 11, 22, 33, 44, 56, 67, 78, 89, 100)


def test_cells_come_from_their_seed(data):
    name = path_of("tok", data)
    short, same, long, other, more = (
        dataset.load(length, tokenizer=name, **metadata)["test"]
        for length, metadata in (
            (1024, {}),
            (1024, {}),
            (2048, {}),
            (1024, {"seed": 1}),
            (1024, {"samples": 100}),
        )
    )
    assert short[:] == same[:]
    assert short["start"] != other["start"]
    assert (short["needle"], short["start"]) == (long["needle"], long["start"])
    assert more["needle"][:50] == short["needle"]
    assert more["end"][:50] == short["end"]


def test_counting_whole_prompts_makes_the_same_grid(data):
    essays = haystack.load_haystack()
    tokenizer = load_tokenizer(path_of("llama_tokenizer", data))
    by_sums, by_prompts = (
        list(
            needle_grid.make_run(
                dataset.GRIDS["niah"],
                GridSettings(),
                2048,
                1,
                essays,
                TokenCounter(tokenizer, special_tokens=True, additive=additive),
            )
        )
        for additive in (True, False)
    )
    for one, other in zip(by_sums, by_prompts, strict=True):
        # the offsets that choose the place are of sentences alone there, so it may move by one
        for field in ("tokens", "start", "end", "depth", "needle"):
            assert one[field] == other[field]
        assert one["position"] == pytest.approx(other["position"], abs=0.05)


def test_a_needle_that_does_not_fit_is_an_error(data):
    essays = haystack.load_haystack()
    counter = TokenCounter(load_tokenizer("mini"))
    with pytest.raises(ValueError, match="niah_100 cannot hold its needle"):
        list(needle_grid.make_run(dataset.GRIDS["niah"], GridSettings(), 100, 0, essays, counter))


# ---------------------------------------------------------------------- LCEG


def test_the_lceg_grid_is_the_papers():
    lengths = dataset.LCEG_LENGTHS
    # 40 lengths from 1000 to 128000, the figures show those below 64000
    assert (len(lengths), lengths[0], lengths[1], lengths[-1]) == (20, 1000, 4256, 62872)
    assert len(constants_of("niah_lceg")) == 20


def test_the_lceg_prompt(data):
    tokenizer = str(data / "tok")
    (first, *_, last) = dataset.load(1000, ctx_grid="niah_lceg", tokenizer=tokenizer)["test"]
    sentence = CLASSIC.text
    assert dataset.doc_to_text(first).startswith(
        f"<|im_start|> This is a very long story book: <book> \n{sentence}\nJuly 2010What hard "
    )
    assert dataset.doc_to_text(last).endswith(
        f"\n{sentence}\n </book>.\n Based on the content of the book, Question: What is the best "
        "thing to do in San Francisco?\nAnswer:"
    )


def study_docs(length, name):
    return dataset.load(length, ctx_grid="niah_lceg", tokenizer=name, fidelity="lceg")["test"]


def test_fidelity_lceg_has_the_studys_prompts(data, golden_dir):
    name = str(data / "llama2")
    file = golden_dir / "official2" / "needle" / "lceg_prompts.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    docs = {(d["length"], d["depth"]): d for n in (1000, 4256, 17282) for d in study_docs(n, name)}
    assert len(records) == 15
    for record in records:
        doc = docs[record["length"], record["depth"] / 100]
        text = dataset.doc_to_text(doc)
        before = text[: text.index(CLASSIC.text)]
        assert text.startswith(record["prompt_head"])
        assert before.endswith(record["before_needle"])
        assert text.endswith(record["tail"])
        tokens = len(tokens_of(name, text))
        assert tokens == doc["tokens"] == record["official_tokens"]
        position = len(tokens_of(name, before)) / tokens
        assert round(position, 4) == record["official_position"]


def test_where_the_study_puts_its_needle(data):
    assert study._stops(load_tokenizer(str(data / "llama2"))) == {29889, 869}  # as written there
    context = [1, 5, 2, 6, 7, 2, 8, 9]
    places = {0: 0, 30: 0, 40: 3, 70: 3, 99: 6, 100: 8}
    for depth, place in places.items():
        found, at = study.insert(context, [77], depth, {2})
        assert at == place
        assert found == [*context[:place], 77, *context[place:]]


def test_the_studys_leaked_tokens(data):
    name = str(data / "tok")
    bos = load_tokenizer(name).bos_token_id
    for doc in study_docs(1000, name):
        ids = tokens_of(name, dataset.doc_to_text(doc))
        places = [place for place, token in enumerate(ids) if token == bos]
        # Measured on the study's own code with this tokenizer: 0, 21, 22 and the needle.
        assert len(places) == 4
        assert places[:3] == [0, 21, 22] or doc["depth"] == 0
        needle = places[1 if doc["depth"] == 0 else 3]
        text = load_tokenizer(name).decode(ids[needle + 1 :])
        assert text.strip().startswith("The best thing to do in San Francisco")


def test_the_studys_prompts_have_no_chat(monkeypatch):
    monkeypatch.setattr(load_tokenizer(resolve_model("mini")), "chat_template", TEMPLATE)
    with pytest.raises(ValueError, match="niah_lceg_1000: metadata chat=true with fidelity=lceg"):
        dataset.load(1000, ctx_grid="niah_lceg", tokenizer="mini", fidelity="lceg", chat=True)


# ---------------------------------------------------------------------- scores


class Oracle(LM):
    """Answers every question, or with a text of one's choice."""

    def __init__(self, response=None):
        super().__init__()
        self.response = response

    def generate_until(self, requests, disable_tqdm=False):
        return [self.response or f" {request.doc['answer']}." for request in requests]

    loglikelihood = loglikelihood_rolling = None


def evaluate(model, *tasks, **options):
    manager = TaskManager(
        include_path=str(tasks_path()),
        include_defaults=False,
        metadata={"tokenizer": "mini", "samples": 10},
    )
    return simple_evaluate(
        model=model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **options
    )["results"]


def test_an_oracle_scores_one_and_essays_zero():
    tasks = ("niah_1k", "passkey_1k", "niah_lceg_1000")
    right = evaluate(Oracle(), *tasks)
    essay = " ".join(haystack.load_haystack().words_to(500)[400:500])
    wrong = evaluate(Oracle(essay), *tasks)
    for task in tasks[:2]:
        assert right[task]["score,none"] == 1.0
        assert right[task]["score_low,none"] == pytest.approx(10 / (10 + 1.959964**2))
        assert wrong[task]["score,none"] == 0.0
    assert right["niah_lceg_1000"]["exact,none"] == 1.0
    assert right["niah_lceg_1000"]["score,none"] == 11 / 12, "the paper's score cannot reach 1"
    assert right["niah_1k"]["overlap,none"] == 11 / 12
    assert wrong["niah_lceg_1000"]["exact,none"] == 0.0


def test_essay_text_scores_zero_where_the_papers_score_is_at_chance():
    words = haystack.load_haystack().words_to(525_000)
    rng = random.Random(0)
    windows = [" ".join(words[at : at + 38]) for at in rng.sample(range(500_000), 5000)]
    answers = [CLASSIC.answer, "4830192"]
    assert sum(metrics.exact(window, answer) for window in windows for answer in answers) == 0
    # 0.146 was measured on 5,000 other windows; their standard error is 0.001
    assert sum(map(overlap, windows)) / len(windows) == pytest.approx(0.146, abs=0.005)


def test_a_missing_scorer_is_told_before_anything_is_made(monkeypatch):
    monkeypatch.setattr("ctxbench.tasks.niah.metrics.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"niah_1k: .*pip install rouge-score"):
        dataset.load(1024, tokenizer="mini")


def test_scores_of_one_sample():
    doc = {"answer": CLASSIC.answer, "needle": CLASSIC.text, "kind": "classic"}
    said = metrics.process_results(
        doc, [" Eat a  sandwich and sit\nin Dolores Park on a sunny day!"]
    )
    assert said["score"] == 1.0
    assert said["overlap"] == 10 / 12, "'day!' is not 'day.'"
    assert metrics.process_results(doc, ["sit in Dolores Park"])["score"] == 0.0
    number = {"answer": "4830192", "needle": "x", "kind": "random"}
    assert metrics.process_results(number, ["It is 4830192."])["overlap"] is None
    assert metrics.mean_of_given([None, 1.0, 0.0]) == 0.5
    for response, score in (
        (" 321. Remember", 1),
        ("0321", 0),
        ("32 1", 0),
        ("no", 0),
        ("1 321", 0),
    ):
        assert passkey.process_results({"answer": "321"}, [response])["score"] == score


# --------------------------------------------------------------------- passkey


def test_the_passkey_prompt(data):
    docs = passkey.load(1024, tokenizer=path_of("llama_tokenizer", data))["test"]
    lines = passkey.doc_to_text(docs[4]).split("\n")
    assert len(lines) == 5
    assert lines[0].startswith("There is an important info hidden inside a lot of irrelevant text.")
    key = docs[4]["answer"]
    assert lines[2] == f"The pass key is {key}. Remember it. {key} is the pass key."
    assert 1 <= int(key) <= 50000
    garbage = f"{lines[1]} {lines[3]}"
    assert garbage.startswith("The grass is green. The sky is blue. The sun is yellow. Here we go.")
    assert garbage.endswith(".")
    assert lines[1].endswith(".")
    assert lines[4] == "What is the pass key? The pass key is"


# --------------------------------------------------------------- data, options


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (
            {"samples": 55},
            "samples=55 is not allowed; it must be a whole number of .* multiple of 10",
        ),
        ({"samples": True}, "samples=True is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed"),
        ({"chat": "yes"}, "chat='yes' is not allowed"),
        ({"chat": True}, "has no chat template"),
        ({"length": 512}, "window is 512 tokens"),
    ],
)
def test_bad_options(metadata, words):
    with pytest.raises(ValueError, match=words):
        dataset.load(1024, **{"tokenizer": "mini", **metadata})


def test_a_chat_template_is_counted_and_left_to_the_harness(monkeypatch):
    tokenizer = load_tokenizer(resolve_model("mini"))
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    doc = dataset.load(1024, tokenizer="mini", chat=True, samples=10)["test"][3]
    text = dataset.doc_to_text(doc)
    assert text.startswith("This is a very long story")
    sent = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    assert len(tokens_of("mini", sent)) == doc["tokens"]


# ------------------------------------------------------------- shared prefixes


@pytest.mark.parametrize(
    ("method", "least"),
    [
        ({"method": "pi"}, 0.3),
        ({"method": "dynamic_ntk"}, 0.3),
        ({"method": "dynamic_ntk", "policy": "stateless"}, 0),
    ],
    ids=str,
)
def test_depths_share_their_beginning_where_the_method_allows(method, least):
    lm = CtxExt(pretrained="mini", length=2048, **method)
    docs = dataset.load(1024, tokenizer="mini", samples=10)["test"]
    prompts = [lm.tok_encode(dataset.doc_to_text(doc)) for doc in docs]
    schedule = lm.scorer.engine.schedule(prompts, [len(ids) + 50 for ids in prompts])
    # Below a fifth of its tokens in common a prompt runs in a batch instead (MIN_SAVING).
    assert schedule.saved / schedule.tokens >= least
    assert bool(schedule.groups) == bool(least)


def test_the_model_runs_both_tasks():
    lm = CtxExt(pretrained="mini", method="pi", length=2048)
    results = evaluate(lm, "niah_1k", "passkey_1k", limit=2)
    for task in ("niah_1k", "passkey_1k"):
        assert results[task]["score,none"] in (0.0, 0.5, 1.0)


def test_parts_render_to_the_prompt(data):
    doc = dataset.load(1024, tokenizer="mini", samples=10)["test"][5]
    words = haystack.load_haystack().words_to(doc["end"])
    parts = needle_grid.prompt_parts(dataset.GRIDS["niah"].frame, GridSettings(), words, doc)
    assert render(parts) == dataset.doc_to_text(doc)


# -------------------------------------------------------------- the study's own scores


def test_scores_are_those_of_the_study(golden_dir):
    lines = (golden_dir / "ruler" / "scores.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["metric"] == "needle"]
    assert len(rows) == 250
    for row in rows:
        assert overlap(row["prediction"]) == row["lceg_heatmap_overlap"]
        rouge = rouge1_x10(row["prediction"], row["needle"])
        assert rouge == pytest.approx(row["rouge1_f_x10"], abs=1e-9)  # float64 sums


def test_a_perfect_answer_gets_eleven_twelfths():
    assert overlap(EXPECTED) == 11 / 12
