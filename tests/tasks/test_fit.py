"""The same tasks on every kind of model: equal prompts, equal counts, one decision what fits."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from ctxbench.core.assets import resolve_model
from ctxbench.core.windows import WindowedText
from ctxbench.models.ctxext import CtxExt
from ctxbench.tasks import model_window as windows
from ctxbench.tasks.class_task import ClassTask
from ctxbench.tasks.fit import look_at
from ctxbench.tasks.leaf_files import tasks_path

MINI = str(resolve_model("mini"))
TASKS = ["mini_needle_512", "mini_ppl_512", "mini_multiquery_512", "passkey_1k"]
BACKENDS = ("ctxext", "hf", "local-completions")


class Completions(BaseHTTPRequestHandler):
    """A server of the completions protocol that has seen every prompt."""

    seen: list

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompts = asked["prompt"] if isinstance(asked["prompt"][0], list) else [asked["prompt"]]
        self.seen += prompts
        choices = []
        for index, ids in enumerate(prompts):
            scores = [-1.0] * (len(ids) + 1)
            logprobs = {"token_logprobs": scores, "top_logprobs": [{"x": -1.0}] * len(scores)}
            choices.append({"index": index, "text": " 7", "logprobs": logprobs})
        self.answer({"choices": choices})

    def do_GET(self):
        self.send_error(404)

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def server():
    handler = type("Handler", (Completions,), {"seen": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/v1/completions", handler.seen
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def arguments(backend, url, window):
    """Model arguments that give a backend the bundled model and a window."""
    if backend == "ctxext":
        return {"pretrained": MINI, "method": "dynamic_ntk", "length": window}
    if backend == "hf":
        return {"pretrained": MINI, "max_length": window, "device": "cpu"}
    if backend == "local-completions":
        more = {"model": "any", "tokenizer": MINI, "max_retries": 1}
        return {"base_url": url, "max_length": window + 1, **more}
    return {"tokenizer": MINI}


def evaluate(backend, url="", window=1024, tasks=TASKS, **more):
    given = arguments(backend, url, window)
    metadata = {**given, "samples": 10, **more.pop("metadata", {})}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    return simple_evaluate(
        model=backend, model_args=given, tasks=tasks, task_manager=manager, metadata=metadata,
        bootstrap_iters=0, limit=2, log_samples=True, **more,
    )  # fmt: skip


def prompts_of(found):
    return {
        task: [sample["arguments"] for sample in samples]
        for task, samples in found["samples"].items()
    }


def sizes_of(found):
    return {task: config["metadata"]["prompts"] for task, config in found["configs"].items()}


# ---------------------------------------------------------------------- four models


@pytest.fixture(scope="module")
def runs():
    with server() as (url, seen):
        found = {backend: evaluate(backend, url) for backend in (*BACKENDS, "dummy")}
        return found, seen


def test_prompts_are_equal_whatever_the_model(runs):
    found, seen = runs
    first, *others = (prompts_of(found[backend]) for backend in (*BACKENDS, "dummy"))
    assert set(first) == set(TASKS)
    assert all(first[task] for task in TASKS)
    assert others == [first] * 3
    assert seen


def test_counts_are_equal_whatever_the_model(runs):
    found, seen = runs
    counts = {backend: sizes_of(run) for backend, run in found.items()}
    assert counts["ctxext"] == counts["hf"] == counts["local-completions"]
    for task in TASKS:
        of_task = counts["ctxext"][task]
        assert of_task["window"] == 1024
        assert (of_task["beyond_window"], of_task["truncated_documents"]) == (0, 0)
        assert counts["dummy"][task] == {**of_task, "window": "unknown"}
    assert counts["ctxext"]["mini_ppl_512"]["longest"] == 512
    assert 1000 < counts["ctxext"]["passkey_1k"]["longest"] <= 1024
    # and they are those of what was really sent: an answer of passkey has 10 tokens
    assert max(map(len, seen)) + 10 == counts["ctxext"]["passkey_1k"]["longest"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_makes_a_prompt_too_long_stops_every_model_before_it_runs(backend, monkeypatch):
    """Full prompts, and a system message that nobody counted."""
    with server() as (url, seen):
        with pytest.raises(ValueError, match=r"10[2-9]\d( tokens|\.)") as error:
            evaluate(
                backend, url, tasks=["passkey_1k"],
                system_instruction="Answer with the number and with nothing else.",
            )  # fmt: skip
        assert not seen
    assert "passkey_1k" in str(error.value)
    assert "silently" in str(error.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_that_is_too_long_stops_before_its_prompts_are_made(backend):
    with server() as (url, _), pytest.raises(ValueError, match="window is 1000 tokens"):
        evaluate(backend, url, window=1000, tasks=["passkey_1k"])


# ---------------------------------------------------------------------- windows


class Engine:
    """As lm-eval's models of engines: a window and a tokenizer, no config of ours."""

    def __init__(self, window=None, tokenizer=None):
        if window:
            self.max_length = window
        self.tokenizer = tokenizer


def test_the_model_object_says_its_window_better_than_any_argument(monkeypatch):
    monkeypatch.setattr(windows, "model_in_use", lambda: Engine(2048))
    assert windows.model_window({"pretrained": "mini", "max_length": 4096}) == 2048
    monkeypatch.setattr(windows, "model_in_use", Engine)
    assert windows.model_window({"max_model_len": "4k"}) == 4096
    assert windows.model_window({"pretrained": "mini"}) is None  # it may have another


def test_a_server_that_gets_texts_cuts_none():
    model = Engine(2047)
    model.tokenized_requests = False
    assert windows.model_window({"base_url": "x", "max_length": 4096}, model) == 4095
    assert windows.model_window({"base_url": "x"}, model) is None  # and nobody knows its window
    model.tokenized_requests = True
    assert windows.model_window({"base_url": "x", "max_length": 4096}, model) == 2047


def test_a_model_of_unknown_window_is_said(caplog):
    found = evaluate("dummy", tasks=["mini_needle_512"])
    assert "the window of the model DummyLM is not" in caplog.text
    assert found["configs"]["mini_needle_512"]["metadata"]["prompts"]["window"] == "unknown"


# ---------------------------------------------------------------------- borders


def generation(text, new=4, **more):
    options = {"until": [], "max_gen_toks": new, **more}
    return Instance("generate_until", {}, (text, options), 0, metadata=("t", 0, 1))


def scoring(context, continuation, number=0):
    return Instance("loglikelihood", {}, (context, continuation), number, metadata=("t", 0, 1))


class Encoding(Engine):
    def __init__(self, window, tokenizer):
        super().__init__(window, tokenizer)
        self.encode = tokenizer

    def tok_encode(self, text):
        return self.encode(text, verbose=False).input_ids


@pytest.fixture(scope="module")
def llama(zoo_path):
    from ctxbench.tasks.tokenizer import load_tokenizer

    return load_tokenizer(zoo_path("llama-2"))  # BOS before every text


def test_over_by_special_tokens_alone_names_the_fidelity_that_counts_them(llama):
    text = "the sky is blue " * 20
    size = len(llama(text).input_ids) + 4
    look_at("ruler_x", [generation(text)], {}, Encoding(size, llama))
    with pytest.raises(ValueError, match=r"over by the 1 special tokens.*fidelity.*strict"):
        look_at("ruler_x", [generation(text)], {}, Encoding(size - 1, llama))
    with pytest.raises(ValueError, match=r"1 of 1 requests of ruler_x do not.*silently"):
        look_at("ruler_x", [generation(text)], {}, Encoding(size - 2, llama))
    with pytest.raises(ValueError, match="cut them silently"):
        look_at("ruler_x", [generation(text)], {"fidelity": "strict"}, Encoding(size - 1, llama))


def test_context_and_continuation_are_counted_together_where_it_matters(llama):
    context, continuation = "the sky is gr", "een and the grass"
    size = len(llama(context + continuation).input_ids)
    requests = [scoring(context, continuation), scoring(context, " x", 1)]
    assert look_at("t", requests, {}, Encoding(size, llama)).longest == size
    with pytest.raises(ValueError, match=f"1 of 2 requests of t .* up to {size}"):
        look_at("t", requests, {}, Encoding(size - 1, llama))


def test_prompts_that_are_meant_to_pass_the_window_name_the_model_that_can(llama):
    text = "the sky is blue " * 20
    with pytest.raises(ValueError, match=r"paper's runs.*--model ctxext.*budget=official"):
        look_at("t", [generation(text, ctx_overflow="allow")], {}, Encoding(30, llama))


def test_windows_over_tokens_are_refused_before_the_run_not_after_it(llama):
    text = WindowedText(list(range(9)), [[0, 1, 9]])
    request = Instance("loglikelihood_rolling", {}, (text,), 0, metadata=("t", 0, 1))
    with pytest.raises(ValueError, match="Use --model ctxext"):
        look_at("t", [request], {}, get_model("dummy")())
    assert look_at("t", [request], {}, Encoding(100, llama)).longest == 9  # of someone else
    assert look_at("t", [request], {}, CtxExt("mini", length=256)).longest == 9


def test_ctxext_cuts_where_it_is_asked_to_and_counts_it():
    lm = CtxExt("mini", "dynamic_ntk", length=256, truncation=True)
    request = generation("the sky is blue " * 200)
    sizes = look_at("t", [request], {}, lm)
    assert (sizes.beyond_window, sizes.window) == (1, 256)
    lm.generate_until([request, request])  # as lm-eval pads the work of a process
    counts = lm.get_model_info()["ctxbench"]
    assert counts["truncated_prompts"] == 1
    assert counts["truncated_tokens"] == sizes.longest - 256


def test_bos_is_never_what_is_cut(zoo_path):
    from transformers import AutoTokenizer

    from ctxbench.models.context_window import ContextWindow

    tokenizer = AutoTokenizer.from_pretrained(zoo_path("llama-2"))
    ids = tokenizer("the sky is blue " * 40).input_ids
    window = ContextWindow(50, 1, tokenizer.bos_token_id)
    for overflow in ("left", "middle"):
        kept = list(window.truncate(ids, 10, overflow))
        assert len(kept) == 41
        assert kept[0] == tokenizer.bos_token_id
        assert kept[-20:] == ids[-20:]
    assert window.counts()["truncated_tokens"] == 2 * (len(ids) - 41)


def test_truncated_documents_of_a_task_are_counted():
    requests = [
        Instance(
            "generate_until", {"truncated": cut}, ("x", {"until": []}), 0, metadata=("t", n, 1)
        )
        for n, cut in enumerate((True, False, True))
    ]
    assert look_at("t", requests, {"tokenizer": MINI}, None).truncated_documents == 2


def longbench(window, tmp_path):
    """One row, longer than 4k tokens, on `hf`."""
    (tmp_path / "LongBench").mkdir()
    row = {"input": "Who?", "context": "Some text. " * 2000, "answers": ["Ann"], "length": 4}
    row |= {"all_classes": None}
    (tmp_path / "LongBench" / "hotpotqa.jsonl").write_text(json.dumps(row) + "\n")
    given = {"data_dir": str(tmp_path), "tokenizer": MINI}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=given)
    model = get_model("hf")(pretrained=MINI, max_length=window, device="cpu")
    model.generate_until = lambda requests: ["Ann" for _ in requests]
    found = simple_evaluate(
        model=model, tasks=["longbench_4k_hotpotqa"], task_manager=manager, bootstrap_iters=0
    )
    return found["configs"]["longbench_4k_hotpotqa"]["metadata"]["prompts"]


def test_what_longbench_cuts_is_counted(tmp_path):
    counts = longbench(4096, tmp_path)
    assert counts["truncated_documents"] == counts["requests"] == 1
    assert 3000 < counts["longest"] <= 4096


def test_a_longbench_prompt_is_not_cut_a_second_time(tmp_path):
    with pytest.raises(ValueError, match=r"4096 tokens .*the model's window is 2048"):
        longbench(2048, tmp_path)


@pytest.mark.parametrize(
    ("task", "more", "words"),
    [
        ("passkey_1k", {"cache_requests": True}, "--cache_requests keeps"),
        (
            "passkey_1k",
            {"num_fewshot": 2},
            "passkey_1k: num_fewshot=2, but its prompts have no few",
        ),
        ("mini_manyshot_4shot", {"num_fewshot": 2}, "num_fewshot=2"),
    ],
)
def test_what_would_bring_other_prompts_is_refused(task, more, words):
    with pytest.raises(ValueError, match=words):
        evaluate("ctxext", tasks=[task], **more)


def test_a_server_that_gets_texts_has_what_it_scores_cut_by_lm_eval():
    with server() as (url, seen):
        given = {"base_url": url, "model": "any", "tokenizer": MINI, "tokenized_requests": False}
        model = get_model("local-completions")(**given, max_length=300)
        manager = TaskManager(
            include_path=str(tasks_path()), include_defaults=False, metadata={"tokenizer": MINI}
        )
        with pytest.raises(ValueError, match=r"do not fit the window of the model, 299 tokens"):
            simple_evaluate(
                model=model, tasks=["mini_multiquery_512"], task_manager=manager, limit=1
            )
        assert not seen


def test_every_evaluation_says_its_own_counts():
    lm = CtxExt("mini", "dynamic_ntk", length=512, truncation=True)
    manager = TaskManager(
        include_path=str(tasks_path()), include_defaults=False, metadata={"tokenizer": MINI}
    )
    asked = {"model": lm, "task_manager": manager, "limit": 1, "bootstrap_iters": 0}
    first = simple_evaluate(tasks=["passkey_1k"], **asked)["config"]["ctxbench"]
    second = simple_evaluate(tasks=["mini_needle_512"], **asked)["config"]["ctxbench"]
    assert (first["truncated_prompts"], second["truncated_prompts"]) == (1, 0)
    assert set(second["generation"]) == {"mini_needle_512"}


def test_a_text_as_long_as_the_window_has_no_context_left():
    lm = CtxExt("mini", length=256, truncation=True)
    with pytest.raises(ValueError, match="Requests need up to 257 tokens"):
        lm.loglikelihood([scoring("the cat", " the" * 256)])


# ---------------------------------------------------------------------- chat templates

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = PLAIN.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
TRIMS = THINKS.replace("m.content }}", "m.content | trim }}")


@pytest.fixture(scope="module")
def with_template(tmp_path_factory):
    from shutil import copytree

    def make(template):
        folder = tmp_path_factory.mktemp("chat") / "model"
        copytree(MINI, folder)
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
        return str(folder)

    return make


class Sized(CtxExt):
    """Answers nothing, after it has looked whether all fits."""

    def generate_until(self, requests, disable_tqdm=False):
        self.found = self.request_sizes(requests)
        return ["" for _ in requests]


@pytest.mark.parametrize("template", [PLAIN, THINKS, TRIMS])
@pytest.mark.parametrize("system", [None, "Answer briefly, in one sentence, please."])
def test_the_template_is_counted_as_it_is_applied(template, system, with_template):
    """The prompt of generation, reasoning opened by it, and the system message."""
    task = "passkey_1k"
    lm = Sized(with_template(template), "dynamic_ntk", length=1024)
    out = run_chat(lm, task, system, {"chat": True})
    assert max(lm.found) <= 1024
    assert max(lm.found) > 1000
    assert ("chat_texts" in out["configs"][task]["metadata"]) is (system is not None)
    prompt = out["samples"][task][0]["arguments"][0][0]
    assert (system or "") in prompt
    assert prompt.endswith("<think>\n") is (template != PLAIN)


def run_chat(lm, task, system, metadata, apply=True):
    metadata = {"tokenizer": lm.tokenizer.name_or_path, "samples": 10, **metadata}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    return simple_evaluate(
        model=lm, tasks=[task], task_manager=manager, metadata=metadata, bootstrap_iters=0,
        apply_chat_template=apply, system_instruction=system, log_samples=True,
    )  # fmt: skip


def test_chat_in_metadata_without_the_flag_is_an_error(with_template):
    lm = Sized(with_template(PLAIN), "dynamic_ntk", length=1024)
    with pytest.raises(ValueError, match=r"passkey_1k: metadata chat=true.*--apply_chat_template"):
        run_chat(lm, "passkey_1k", None, {"chat": True}, apply=False)


def test_a_flag_that_contradicts_chat_in_metadata_is_an_error(with_template):
    lm = Sized(with_template(PLAIN), "dynamic_ntk", length=1024)
    with pytest.raises(
        ValueError, match=r"passkey_1k: metadata chat=false says.*Leave one of them"
    ):
        run_chat(lm, "passkey_1k", None, {"chat": False})


def test_a_template_that_no_length_counts_is_told_and_recorded(with_template, caplog):
    lm = Sized(with_template(PLAIN), "dynamic_ntk", length=2048)
    out = run_chat(lm, "passkey_1k", None, {})
    assert out["configs"]["passkey_1k"]["metadata"]["chat_template"] == "applied, not counted"
    assert "passkey_1k: the chat template comes on top of the length" in caplog.text
    assert max(lm.found) > 1024


def test_no_task_ignores_a_number_of_examples():
    """lm-eval passes over --num_fewshot where a task's file says 0."""
    from ctxbench.core.compat.lm_eval import load_task_file

    files = list(tasks_path().rglob("*.yaml"))
    assert len(files) > 100
    assert not [
        f.stem for f in files[::7] if load_task_file(f, functions=False).get("num_fewshot") == 0
    ]


def test_every_task_looks_whether_it_fits():
    from ctxbench.core.compat.lm_eval import load_task_file

    files = list(tasks_path().rglob("*.yaml"))
    checked = 0
    for file in files[:: max(1, len(files) // 60)]:
        content = load_task_file(file, functions=True)
        if "group" not in content and "task" in content:
            assert issubclass(content["class"], ClassTask), file.name
            checked += 1
    assert checked > 20
