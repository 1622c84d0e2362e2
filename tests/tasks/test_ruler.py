"""RULER against the official generator and evaluator, and our own promises.

Golden samples: the official scripts, seed 42, tokenizer `tok` (see the golden folder's README).
"""

import itertools
import json
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from ctxbench.core.assets import resolve_model
from ctxbench.core.lengths import LADDER
from ctxbench.tasks import specs
from ctxbench.tasks.chat import chat_texts
from ctxbench.tasks.leaf_files import constants_of, ladder, tasks_path
from ctxbench.tasks.model_window import check_task_length, model_window
from ctxbench.tasks.ruler import dataset, leaves, metrics
from ctxbench.tasks.ruler.family import DoesNotFit, RulerSettings, largest_that_fits
from ctxbench.tasks.ruler.fwe import _ZETA, word_counts
from ctxbench.tasks.ruler.niah import Niah
from ctxbench.tasks.ruler.stream import Stream
from ctxbench.tasks.ruler.subtasks import SUBTASKS
from ctxbench.tasks.ruler.words import Pairs, common_words, pairs
from ctxbench.tasks.token_count import TokenCounter, render
from ctxbench.tasks.tokenizer import load_tokenizer, tokenizer_name

CASES = list(itertools.product(SUBTASKS, (4096, 8192)))


@pytest.fixture(scope="module")
def data(data_dir):
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXBENCH_DATA", str(data_dir))
    yield data_dir
    patch.undo()


@pytest.fixture(scope="module")
def tok(data):
    return str(data / "tok")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache of its own, but with the sentence borders that were found already."""
    from ctxbench.core.assets import cache_dir

    shared = cache_dir() / "sentences"
    shared.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path))
    (tmp_path / "sentences").symlink_to(shared)
    return tmp_path


def golden(folder, subtask, length):
    path = folder / "ruler" / f"{subtask}_{length}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("subtask", "length"), CASES)
def test_samples_are_the_official_ones(data, tok, golden_dir, empty_cache, subtask, length):
    """Through the cache and lm-eval's own functions: what a model is given."""
    docs = dataset.load(subtask, length, tokenizer=tok, samples=3)["test"]
    wanted = golden(golden_dir, subtask, length)
    assert [dataset.doc_to_text(doc) for doc in docs] == [row["input"] for row in wanted]
    for field, ours in (
        ("answer_prefix", "gen_prefix"),
        ("outputs", "outputs"),
        ("length", "tokens"),
    ):
        assert [doc[ours] for doc in docs] == [row[field] for row in wanted]


@pytest.mark.parametrize(
    "subtask", [name for name, task in SUBTASKS.items() if task.family is Niah]
)
def test_answer_positions_are_the_official_ones(data, tok, golden_dir, subtask):
    counter = dataset._counter(tok, False)
    family = SUBTASKS[subtask].make(RulerSettings(4096, 3))
    ours = [
        family.answer_position(counter, sample)
        for _, sample, _ in itertools.islice(family.make(counter), 3)
    ]
    wanted = golden(golden_dir, subtask, 4096)
    assert ours == [row["token_position_answer"] for row in wanted]


def test_scores_are_the_official_ones(golden_dir):
    lines = (golden_dir / "ruler" / "scores.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["metric"].startswith("string_match")]
    assert len(rows) == 700  # the other 250 are the needle's: test_niah.py
    for row in rows:
        any_reference = row["metric"] == "string_match_part"
        if row["kind"] == "single":
            text = metrics.postprocess(row["prediction"])
            assert text == row["postprocessed"]
            score = metrics.match(text, row["references"], any_reference)
        else:
            texts = map(metrics.postprocess, row["predictions"])
            pairs_ = zip(texts, row["references"], strict=True)
            scores = [metrics.match(text, refs, any_reference) for text, refs in pairs_]
            score = sum(scores) / len(scores)
        assert round(score, 2) == row["official_score"]


@pytest.mark.parametrize("fidelity", ["nvidia", "lceg", "strict"])
def test_an_oracle_scores_100_everywhere(data, tok, fidelity):
    for subtask in SUBTASKS:
        metadata = {"tokenizer": tok, "samples": 2, "fidelity": fidelity}
        for doc in dataset.load(subtask, 4096, **metadata)["test"]:
            answer = doc["outputs"][0] if "qa" in subtask else " ".join(doc["outputs"])
            assert metrics.process_results(doc, [answer])["score"] == 100
            assert metrics.process_results(doc, ["\x00 "])["null"] == 100
            text = dataset.doc_to_text(doc)
            assert "qa" in subtask or all(output in text for output in doc["outputs"])


def _make(job):
    """Run in a child process: the rows of some leaves, in the order given."""
    cache, tokenizer, names = job
    import os

    os.environ["CTXBENCH_CACHE"] = cache
    found = {n: dataset.get_specs(n, 4096, {"tokenizer": tokenizer, "samples": 2}) for n in names}
    return {n: (str(f.path), f.rows) for n, f in found.items()}


@pytest.mark.slow  # two processes that import everything
def test_order_processes_and_cache_do_not_matter(data, tok, empty_cache):
    names = ["niah_multikey_2", "vt", "cwe", "fwe", "qa_1"]
    here = {n: dataset.get_specs(n, 4096, {"tokenizer": tok, "samples": 2}) for n in names}
    again = {
        n: dataset.get_specs(n, 4096, {"tokenizer": tok, "samples": 2}) for n in reversed(names)
    }
    assert {n: f.rows for n, f in here.items()} == {n: f.rows for n, f in again.items()}
    other = empty_cache / "other"
    jobs = [(str(other), tok, names), (str(other), tok, names[::-1])]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = pool.map(_make, jobs)
    assert first == second  # the same files, though both processes wanted to make them
    for name in names:
        assert first[name][1] == here[name].rows
        assert here[name].path.stat().st_size < 2500 * len(here[name].rows)


@pytest.mark.parametrize("tokenizer", ["tok", "llama_tokenizer"])
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_strict_fills_and_never_exceeds(data, tokenizer, subtask):
    name = str(data / tokenizer)
    samples = 24 if subtask == "niah_multikey_3" else 5
    metadata = {"tokenizer": name, "samples": samples, "fidelity": "strict"}
    encode = load_tokenizer(name)
    family = SUBTASKS[subtask].make(RulerSettings(4096))
    fills = []
    for doc in dataset.load(subtask, 4096, **metadata)["test"]:
        ids = encode(dataset.doc_to_text(doc) + doc["gen_prefix"]).input_ids
        assert len(ids) + family.new_tokens == doc["tokens"] <= 4096
        fills.append(doc["tokens"] / 4096)
    # Documents are indivisible; a line of uuids is up to 1.6 % of 4k, of which half is lost.
    assert sum(fills) / len(fills) >= (0.97 if subtask.startswith("qa") else 0.99)


@pytest.mark.parametrize(
    "subtask", ["niah_single_1", "niah_single_2", "niah_multiquery", "vt", "qa_1"]
)
def test_strict_depths_are_uniform(data, tok, subtask):
    """Strata make the recorded depths even: each fifth has a fifth, give or take the haystack's
    units (sentences, documents)."""
    metadata = {"tokenizer": tok, "samples": 50, "fidelity": "strict"}
    docs = dataset.get_specs(subtask, 4096, metadata).rows
    depths = [doc["depth"] for doc in docs]
    fifths = [sum(k <= 5 * min(d, 0.999) < k + 1 for d in depths) for k in range(5)]
    room = 3 if subtask != "niah_multiquery" else 6  # there the recorded answer is one of four
    assert all(abs(count - 10) <= room for count in fifths), fifths


def test_strict_has_no_constant_layout(data, tok):
    def layouts(subtask, fidelity):
        metadata = {"tokenizer": tok, "samples": 3, "fidelity": fidelity}
        for doc in dataset.load(subtask, 4096, **metadata)["test"]:
            words = dataset.doc_to_text(doc).split()
            yield tuple(n for n, word in enumerate(words) if word == doc["outputs"][0])[:5]

    assert len(set(layouts("fwe", "strict"))) == 3
    assert len(set(layouts("fwe", "nvidia"))) == 1


def test_lceg_keeps_its_quirks(data, tok):
    """Facts of LCEG's copy: one fixed, cut example in vt; fwe forgets the new tokens."""
    metadata = {"tokenizer": tok, "samples": 20, "fidelity": "lceg"}
    texts = [dataset.doc_to_text(doc) for doc in dataset.load("vt", 4096, **metadata)["test"]]
    examples = {text.split("\n\n\n\n")[0] for text in texts}
    assert len(examples) == 1
    (example,) = examples
    assert example.startswith(" Memorize")
    assert "in the text Answer: According" in example
    assert "assgined" in example
    assert max(row["tokens"] for row in dataset.get_specs("fwe", 4096, metadata).rows) > 4096
    # 20 samples of LCEG's own generator with this tokenizer have a mean of 2,140 tokens
    rows = dataset.get_specs("qa_1", 4096, metadata).rows
    assert round(sum(row["tokens"] for row in rows) / 20, -1) == 2140


def test_what_cannot_fit(data, tok, empty_cache):
    """With this tokenizer the official code never ends at the eighth question of qa_2."""
    found = dataset.get_specs("qa_2", 4096, {"tokenizer": tok, "samples": 10})
    assert len(found.rows) == 10
    assert found.report["skipped"] == 1
    assert [row["recipe"]["question"] for row in found.rows] == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    with pytest.raises(ValueError, match=r"it needs \d+.*unfit='skip'"):
        dataset.get_specs("qa_2", 4096, {"tokenizer": tok, "samples": 10, "unfit": "error"})
    with pytest.raises(ValueError, match=r"ruler_1k_qa_2 has no sample.*Take length 2048"):
        dataset.get_specs("qa_2", 1024, {"tokenizer": tok, "samples": 10})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"fidelity": "nvida"},
            "'nvida' is not allowed; it must be 'nvidia' or 'lceg' or 'strict'",
        ),
        ({"samples": 0}, "samples=0 is not allowed"),
        ({"unfit": True}, "unfit=True is not allowed; it must be 'skip' or 'error'"),
        ({"chat": True, "fidelity": "lceg"}, "base models"),
        ({"chat": True}, "no chat template"),
    ],
)
def test_wrong_metadata_is_named(data, tok, metadata, message):
    with pytest.raises(ValueError, match=message):
        dataset.get_specs("vt", 4096, {"tokenizer": tok, **metadata})


def test_missing_and_damaged_data_are_named(data, tok, tmp_path, monkeypatch, empty_cache):
    monkeypatch.setenv("CTXBENCH_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"PaulGrahamEssays.json.*download_paulgraham"):
        dataset.get_specs("niah_single_2", 4096, {"tokenizer": tok, "samples": 1})
    with pytest.raises(FileNotFoundError, match=r"dev-v2.0.json.*rajpurkar"):
        dataset.get_specs("qa_1", 4096, {"tokenizer": tok, "samples": 1})
    (tmp_path / "squad.json").write_text('{"data": [{}]}')
    with pytest.raises(ValueError, match=r"squad.json is not the expected file.*SQuAD 2.0"):
        dataset.get_specs("qa_1", 4096, {"tokenizer": tok, "samples": 1})
    with pytest.raises(FileNotFoundError, match=r"english_words.json.*strict"):
        dataset.get_specs("cwe", 1 << 19, {"tokenizer": tok, "samples": 1})


def test_a_damaged_sample_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path))
    key = {"leaf": "some_task", "samples": 1}
    made = specs.get(key, lambda: ([{"a": 1}], {}))
    assert specs.get(key, lambda: pytest.fail("made twice")).rows == [{"a": 1}]
    made.path.write_bytes(made.path.read_bytes().replace(b'"a"', b'"b"'))
    with pytest.raises(ValueError, match=r"damaged.*ctxbench data rm some_task-"):
        specs.get(key, lambda: ([], {}))
    assert list(specs.files("some_task")) == [made.path]
    specs.remove(made.path)
    assert not list(specs.files())


def test_a_failure_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="no"):
        specs.get({"leaf": "t"}, lambda: (_ for _ in ()).throw(ValueError("no")))
    assert not list(specs.files())


def test_a_window_that_is_too_short_stops_before_generation():
    with pytest.raises(ValueError, match=r"window is 2048 tokens.*ctxext"):
        check_task_length(4096, "ruler_4k_vt", {"pretrained": "x", "method": "pi", "length": "2k"})
    with pytest.raises(ValueError, match="window is 256 tokens"):
        check_task_length(4096, "ruler_4k_vt", {"pretrained": "mini"})
    check_task_length(4096, "ruler_4k_vt", {"pretrained": "mini", "method": "pi"})
    check_task_length(4096, "ruler_4k_vt", {"pretrained": "mini", "max_length": 4096})


@pytest.mark.parametrize(
    ("arguments", "window"),
    [
        ({"max_model_len": 4096}, 4096),  # vllm
        ({"max_model_len": "32k"}, 32768),
        ({"max_model_len": "auto"}, 256),  # the config's
        ({"context_length": 4096}, 4096),  # sglang
        ({"base_url": "http://127.0.0.1:1/v1/completions"}, 2047),  # lm-eval's default
        ({"base_url": "http://127.0.0.1:1/v1/completions", "max_length": 4096}, 4095),
    ],
)
def test_the_window_of_other_backends_is_the_one_they_are_given(arguments, window):
    """Whatever the config says: it may be longer, or shorter than with their own overrides."""
    metadata = {"pretrained": "mini", **arguments}
    check_task_length(window, "ruler_32k_vt", metadata)
    with pytest.raises(ValueError, match=rf"the model's window is {window} tokens"):
        check_task_length(window + 1, "ruler_32k_vt", metadata)


def test_a_servers_window_is_what_lm_eval_makes_of_it():
    pytest.importorskip("tenacity")
    pytest.importorskip("aiohttp")
    model = get_model("local-completions")
    plain = model(model="x", tokenizer_backend=None, base_url="http://127.0.0.1:1/v1/completions")
    assert plain.max_length == model_window({"base_url": "http://127.0.0.1:1/v1/completions"})


def test_chat_template_is_counted_and_the_prefix_comes_last(data, empty_cache, monkeypatch):
    tokenizer = load_tokenizer(str(data / "llama_tokenizer"))
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    assert chat_texts(tokenizer, prefixed=True) == ("[INST] ", " [/INST]")
    metadata = {"tokenizer": str(data / "llama_tokenizer"), "samples": 2, "chat": True}
    for subtask in ("vt", "cwe", "qa_1"):
        for doc in dataset.load(subtask, 4096, **metadata)["test"]:
            text = f"[INST] {dataset.doc_to_text(doc)} [/INST]{doc['gen_prefix']}"
            ids = tokenizer(text, add_special_tokens=False).input_ids
            new = SUBTASKS[subtask].make(RulerSettings(4096)).new_tokens
            assert len(ids) + new == doc["tokens"] <= 4096
            # The official CWE example is a turn of its own.
            assert text.count("[INST]") == (2 if subtask == "cwe" else 1)


def test_groups_hold_thirteen_leaves_each():
    files = leaves.leaves(None)

    def leaf_names(name):
        tasks = files[name].get("task")
        return [name] if isinstance(tasks, str) else [x for t in tasks for x in leaf_names(t)]

    for key, length in ladder(LADDER, None).items():
        wanted = {dataset.leaf_name(subtask, length) for subtask in SUBTASKS}
        assert set(leaf_names(f"ruler_{key}")) == wanted
        assert set(constants_of(f"ruler_{key}")) == wanted
    assert len(leaf_names("ruler_all")) == len(constants_of("ruler_all")) == 6 * 13
    assert constants_of("ruler_24k_qa_1") == {
        "ruler_24k_qa_1": {"ctx_subtask": "qa_1", "ctx_length": 24576}
    }
    assert constants_of("ruler_4k_nothing") == {}


def test_harness_sends_prompt_and_prefix_as_they_are(data, tok, golden_dir):
    metadata = {"tokenizer": tok, "samples": 2}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    task = manager.load(["ruler_4k_vt"])["tasks"]["ruler_4k_vt"]
    task.build_all_requests(limit=None, rank=0, world_size=1)
    rows = golden(golden_dir, "vt", 4096)[:2]
    wanted = [row["input"] + row["answer_prefix"] for row in rows]
    assert [request.args[0] for request in task.instances] == wanted
    assert task.instances[0].args[1]["max_gen_toks"] == 30


def test_pairs_are_the_sorted_list():
    adjectives = ["well", "well-known", "a", "able", "well"]
    nouns = ["man", "known-zoo", "zebra", "man"]
    everything = sorted({f"{a}-{n}" for a in adjectives for n in nouns})
    assert list(Pairs(adjectives, nouns)) == everything
    assert len(pairs()) == 6_171_620
    assert len(common_words(42)) == 8166


def test_streams_are_random_random_and_addressable():
    ours, plain = Stream(42), random.Random(42)
    for _ in range(100):
        assert ours.randint(0, 999) == plain.randint(0, 999)
        assert ours.sample(range(50), 7) == plain.sample(range(50), 7)
        assert ours.choices("abc", k=3) == plain.choices("abc", k=3)
    assert Stream(42, ours.drawn).random() == plain.random()


def test_frequencies_are_scipys_zeta():
    special = pytest.importorskip("scipy.special")
    assert float(special.zeta(2.0)) == _ZETA
    assert word_counts(4, 10)[0] == 2


def test_largest_that_fits_is_a_border():
    draw = random.Random(0)
    for _ in range(200):
        per, fixed, limit = draw.uniform(0.5, 40), draw.randrange(300), draw.randrange(400, 9000)
        size = largest_that_fits(lambda n: int(per * n) + fixed, limit, 1, draw.randrange(1, 3000))  # noqa: B023
        assert int(per * size) + fixed <= limit < int(per * (size + 1)) + fixed


def test_interval_is_wilsons():
    """Wilson 1927: 8 of 10 gives 0.4902 to 0.9433 (as in statsmodels' proportion_confint)."""
    scores = [100.0] * 8 + [0.0] * 2
    assert (round(metrics.low(scores), 2), round(metrics.high(scores), 2)) == (49.02, 94.33)
    assert metrics.by_depth([(0.1, 100.0), (0.15, 50.0), (1.0, 0.0), (None, 9.0)]) == "75 - - - 0"


def test_unfit_samples_do_not_hang(data, tok):
    counter = TokenCounter(load_tokenizer(tok))
    family = SUBTASKS["niah_multikey_3"].make(RulerSettings(256, 1))
    assert isinstance(next(family.make(counter)), DoesNotFit)
    assert render(["a", "b"]) == "ab"


def test_order_of_tasks_does_not_matter(data, tok, empty_cache):
    """Each leaf has its own stream: nothing that ran before changes it, and the cache is equal."""
    names = ["fwe", "vt", "niah_multikey_2"]

    def rows(order):
        found = {n: dataset.get_specs(n, 4096, {"tokenizer": tok, "samples": 2}) for n in order}
        return {n: f.rows for n, f in found.items()}

    made, read = rows(names), rows(names)
    for path in list(specs.files()):
        specs.remove(path)
    random.seed(1)
    assert made == read == rows(names[::-1])


def test_cwe_never_has_fewer_than_its_common_words():
    """With short tokens the official search goes below ten words, which are no list of ten."""
    from ctxbench.tasks.ruler import dataset

    docs = dataset.load(ctx_subtask="cwe", ctx_length=1024, tokenizer="mini", samples=3)["test"]
    assert len(docs) == 3
    assert all(len(doc["outputs"]) == 10 and doc["tokens"] <= 1024 for doc in docs)


def test_what_loads_the_models_tokenizer_loads_the_tasks(tmp_path):
    """`trust_remote_code` and `revision`: a task would ask, refuse, or count with another one."""
    folder = Path(shutil.copytree(resolve_model("mini"), tmp_path / "own"))
    (folder / "tokenization_own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    file = folder / "tokenizer_config.json"
    content = json.loads(file.read_text())
    content.pop("backend", None)
    own = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}
    file.write_text(json.dumps({**content, "tokenizer_class": "OwnTokenizer", "auto_map": own}))
    name = tokenizer_name(pretrained=str(folder), trust_remote_code=True)
    assert type(load_tokenizer(name)).__name__ == "OwnTokenizer"
    with pytest.MonkeyPatch.context() as patch:
        asked = {}
        patch.setattr(
            "transformers.AutoTokenizer.from_pretrained", lambda _, **given: asked.update(given)
        )
        load_tokenizer(tokenizer_name(pretrained="some/model", revision="v2"))
        assert asked["revision"] == "v2"
        asked.clear()
        load_tokenizer(tokenizer_name(pretrained="some/model", revision="main"))
        assert "revision" not in asked
