"""`ctxext`: the lm-eval model that runs any extension method."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.models.utils_hf import stop_sequences_criteria
from transformers import AutoTokenizer

from ctxbench import __version__
from ctxbench.assets import resolve_model
from ctxbench.errors import show_user_errors_plainly
from ctxbench.methods.attach import method_of
from ctxbench.methods.options import near_names, parse_length
from ctxbench.methods.record import read_record
from ctxbench.methods.registry import method_and_options, method_class
from ctxbench.models.answers import AnswerCache, fingerprint, weights_hash
from ctxbench.models.checks import ChatCheck, check_bos, check_tokenizer
from ctxbench.models.generating import Generator, Prompt
from ctxbench.models.loading import (
    check_dtype,
    choose_method,
    edited_config,
    extend,
    finish_loading,
    load_config,
)
from ctxbench.models.pairs import LONG, continue_tail, parts, tail_of
from ctxbench.models.progress import Progress
from ctxbench.models.reading import explained
from ctxbench.models.scoring import Request, Score, Scorer
from ctxbench.refused import readable_config

log = logging.getLogger(__name__)
show_user_errors_plainly()

STATEMENTS = ("length", "adopt", "override", "trained_length", "original_length")
"""Arguments about the method besides its own options."""

FROM_PRETRAINED = (
    "attn_implementation",
    "cache_dir",
    "device_map",
    "force_download",
    "load_in_4bit",
    "load_in_8bit",
    "local_files_only",
    "low_cpu_mem_usage",
    "max_memory",
    "quantization_config",
    "token",
    "use_safetensors",
    "variant",
)
"""Arguments that transformers' `from_pretrained` takes and HFLM passes on."""

OVERFLOW = ("error", "left", "middle", "allow")
"""What a task may ask for a prompt that does not fit, as generation argument `ctx_overflow`."""


_HFLM: Any = HFLM  # its registering decorator hides its type from checkers


@register_model("ctxext")
class CtxExt(_HFLM):
    """HFLM with an extension method, exact scoring, shared prefixes and safe resuming.

    Takes every argument of HFLM, and:

    Args:
        pretrained: folder, hub id, the bundled `mini`, or a model in memory.
        method: extension method or preset (`ctxbench ls`); None: what the checkpoint was made
            with, else `none`.
        length: window at evaluation in tokens, `32768` or `32k`.
        stride: tokens between the starts of rolling log-likelihood windows; default the window:
            disjoint windows, as HFLM.
        share_prefixes: compute common beginnings of requests once where the method allows.
        prefill_chunk: tokens fed at once; default all that memory allows.
        cache: folder for answers; a killed run started again goes on from them.
        kwargs: the method's options; `adopt`, `override`, `trained_length`, `original_length` (see
            `ctxbench.load_model`); arguments of HFLM and of `from_pretrained`.

    Raises:
        ValueError: unknown or contradictory arguments; later, a request that does not fit.
    """

    def __init__(
        self,
        pretrained: Any,
        method: str | None = None,
        length: int | str | None = None,
        *,
        stride: int | str | None = None,
        share_prefixes: bool = True,
        prefill_chunk: int | None = None,
        cache: str | None = None,
        max_length: int | str | None = None,
        device: str | None = None,
        dtype: str | torch.dtype = "auto",
        batch_size: int | str = 1,
        **kwargs: Any,
    ):
        name = None if method is None or method == "None" else str(method)
        asked, others = split_arguments(pretrained, name, kwargs)
        if length is not None:
            asked["length"] = length
        if max_length is not None:
            _check_max_length(parse_length(max_length), length)
            asked["length"] = max_length
        self._asked = (name, asked)
        self.ctx_method: Any = None
        self.counts: Counter[str] = Counter()
        self._tokens: dict[str, list[int]] = {}
        self._tail: tuple[str, list[int], tuple[str, list[int]] | None] = ("", [], None)
        in_memory = not isinstance(pretrained, str)
        if in_memory:
            self._take_model(pretrained, name, asked)
        else:
            pretrained = resolve_model(pretrained)
            if isinstance(others.get("tokenizer"), str):
                others["tokenizer"] = resolve_model(others["tokenizer"])
        _join_processes(device)
        automatic = str(batch_size).startswith("auto")
        super().__init__(
            pretrained=pretrained,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            dtype=check_dtype(dtype),
            batch_size=1 if automatic else batch_size,
            **others,
        )
        if self.backend != "causal":
            raise ValueError(
                f"ctxext runs causal language models; {pretrained} is of kind {self.backend}. "
                "Use --model hf for it."
            )
        if hasattr(self, "accelerator"):  # HFLM splits work on several GPUs of one node only
            self._rank = self.accelerator.process_index
            self._world_size = self.accelerator.num_processes
        if self._world_size != launched_processes() and not (in_memory or others.get("tp_plan")):
            raise ValueError(
                f"{launched_processes()} processes were launched but {self._world_size} work "
                "together, so each would do the work of all. Launch with torchrun or accelerate "
                "launch --multi_gpu (on CPUs too), one process per device."
            )
        check_tokenizer(self.hf_model, self.tokenizer)
        check_bos(
            self.hf_model.config, self.tokenizer, self.tok_encode("A text."), self.add_bos_token
        )
        self.chat = ChatCheck(self.tokenizer)
        self.stride = parse_length(stride) if stride is not None else None
        if self.stride is not None and self.stride > self.max_length:
            raise ValueError(
                f"stride={self.stride} is longer than the window of {self.max_length} tokens, so "
                "text between windows would not be scored. Give a stride of at most the window."
            )
        self.scorer = Scorer(
            self.hf_model,
            self.ctx_method,
            batch_size=None if automatic else int(batch_size),
            max_batch_size=int(others.get("max_batch_size", 64)),
            prefill_chunk=prefill_chunk,
            share_prefixes=share_prefixes,
        )
        self.generator = Generator(self.scorer, int(self.tokenizer.pad_token_id))  # type: ignore
        self.special_tokens = len(self.tok_encode(""))
        self.answers = AnswerCache(cache, self.fingerprint()) if cache else None

    # ------------------------------------------------------- making the model

    def _take_model(self, model: Any, name: str | None, asked: dict[str, Any]) -> None:
        """Use a model in memory, extending it if it is not yet and that was asked."""
        if getattr(model, "ctxbench_method", None) is None:
            extend(model, name, **asked)
        elif name is not None or asked:
            raise ValueError(
                "This model was extended already, so method and options cannot be given again. "
                "Leave them out, or give a model that was not extended."
            )
        self.ctx_method = method_of(model)

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        """Load the config and let the method edit it, before HFLM makes the model."""
        revision = kwargs.get("revision")
        config = load_config(
            pretrained,
            revision=None if revision == "main" else revision,
            trust_remote_code=bool(kwargs.get("trust_remote_code")),
        )
        name, asked = self._asked
        self.ctx_method, record = choose_method(config, name, **asked)
        self._config = edited_config(config, self.ctx_method, record)

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **kwargs: Any) -> None:
        source = tokenizer or pretrained
        with explained(str(source), "tokenizer files"):
            if isinstance(source, str) and (config := readable_config(source)) is not None:
                stated = ("revision", "trust_remote_code", "add_bos_token")
                more = {name: kwargs[name] for name in stated if kwargs.get(name) is not None}
                tokenizer = AutoTokenizer.from_pretrained(source, config=config, **more)
            super()._create_tokenizer(pretrained, tokenizer, **kwargs)
        self.ctx_method.edit_tokenizer(self.tokenizer)

    def _create_model(self, pretrained: str, **kwargs: Any) -> None:
        """Load the weights under the edited config and install the method."""
        peft, delta = kwargs.pop("peft", None), kwargs.pop("delta", None)
        with explained(pretrained):
            super()._create_model(pretrained, config=self._config, **kwargs)
        if delta:
            raise ValueError(
                "delta weights cannot be combined with ctxext. Add them to the base first, save "
                "the sum, and give that folder as pretrained."
            )
        finish_loading(self._model, self.ctx_method, pretrained)  # type: ignore[arg-type]
        if peft:
            from peft import PeftModel

            if self._model.config.vocab_size != len(self.tokenizer):  # an adapter added tokens
                self._model.resize_token_embeddings(len(self.tokenizer))
            self._model = PeftModel.from_pretrained(
                self._model,  # type: ignore[arg-type]
                peft,
                revision=kwargs.get("revision"),
            )

    @property
    def hf_model(self):
        """The transformers model, out of any adapter."""
        model = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def max_length(self) -> int:
        """The window, tokens."""
        return int(self.ctx_method.length)

    # -------------------------------------------------------------- identity

    def identity(self) -> dict[str, Any]:
        """Return the method with its options, as results and cache keys carry it."""
        record = read_record(self.hf_model.config)
        found = {
            "method": self.ctx_method.name,
            "length": self.max_length,
            "options": {k: v for k, v in self.ctx_method.options().items() if v is not None},
            "exact": self.ctx_method.exact,
            "version": __version__,
        }
        if record is not None:
            found["original_length"] = record.original_length
            found["trained_length"] = record.trained_length
            found["adopted"] = record.adopted
            found["overridden"] = record.overridden
        return found

    def fingerprint(self) -> str:
        """Return a hash of weights, method, options, window, dtype, vocabulary and versions."""
        import transformers

        return fingerprint(
            {
                "weights": weights_hash(self.model.state_dict().items()),
                **self.identity(),
                "stride": self.stride,
                "dtype": str(self.hf_model.dtype),
                "attention": getattr(self.hf_model.config, "_attn_implementation", None),
                "tokenizer": len(self.tokenizer),
                "versions": [torch.__version__, transformers.__version__],
            }
        )

    def get_model_info(self) -> dict:
        """Return HFLM's entries and the method, options, lengths and counts of this run."""
        counts = {
            "special_tokens_beyond_length": self.counts["special"],
            "truncated_prompts": self.counts["truncated"],
            "truncated_tokens": self.counts["truncated_tokens"],
            "prompts_beyond_length": self.counts["beyond"],
        }
        return {**super().get_model_info(), "ctxbench": {**self.identity(), **counts}}

    def set_cache_hook(self, cache_hook) -> None:
        """Refuse the harness's `--use_cache`, whose keys do not know the model."""
        if getattr(cache_hook, "dbdict", None) is not None:
            raise ValueError(
                "--use_cache keeps answers by prompt alone, so one method's would be served to "
                "another. Leave it out and give the model argument cache=FOLDER: its keys hold "
                "the weights, the method and its options."
            )
        super().set_cache_hook(cache_hook)

    # ------------------------------------------------------------ tokenising

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """Tokenise, remembering long strings: the harness asks for each several times."""
        if args or kwargs:
            return super().tok_encode(string, *args, **kwargs)
        if string not in self._tokens:
            if len(self._tokens) > 4096:
                self._tokens.clear()
            self._tokens[string] = super().tok_encode(string)
        return list(self._tokens[string])

    def final_length(self, tokens: int, task: str | None, overflow: str = "error") -> int:
        """Return the length that sets a request's frequencies.

        Special tokens that the tokenizer adds beyond the window are allowed, counted, and do not
        stretch the frequencies.

        Raises:
            ValueError: the request does not fit the window.
        """
        excess = tokens - self.max_length
        if excess <= 0:
            return tokens
        if excess <= self.special_tokens:
            self.counts["special"] += 1
            return self.max_length
        if overflow == "allow":
            self.counts["beyond"] += 1
            return tokens
        raise ValueError(
            f"A request of task {task or '?'} needs {tokens} tokens, but the window is "
            f"{self.max_length} tokens (model argument length). Nothing is truncated silently: "
            "give a larger length, a task made for this length, or truncation=True to drop tokens "
            "from the left."
        )

    # --------------------------------------------------------- log-likelihood

    def _loglikelihood_tokens(
        self, requests, disable_tqdm: bool = False, override_bs: int | None = None, tasks=None
    ) -> list[tuple[float, bool]]:
        """Score (strings, context tokens, continuation tokens); see HFLM."""
        tasks = tasks or [None] * len(requests)
        made = [
            self._request(context, continuation, task)
            for (_, context, continuation), task in zip(requests, tasks, strict=True)
        ]
        return self.score(made, tasks, _total_and_greedy)

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (sum of log-probabilities, all greedy) of each continuation given its context."""
        return [answer for part in parts(requests) for answer in self._loglikelihood(part)]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenise as HFLM does, of a long context only its end for every continuation."""
        stripped = context.rstrip()
        if len(stripped) >= LONG:
            if stripped is not self._tail[0] and stripped != self._tail[0]:
                ids = self.tok_encode(stripped)
                self._tail = (stripped, ids, tail_of(stripped, ids, self._encode_bare))
            _, ids, tail = self._tail
            spaces = context[len(stripped) :]
            if tail and (new := continue_tail(tail, spaces + continuation, self._encode_bare)):
                return ids, new
        return super()._encode_pair(context, continuation)

    def _encode_bare(self, text: str) -> list[int]:
        return self.tok_encode(text, add_special_tokens=False)

    def _loglikelihood(self, requests) -> list[tuple[float, bool]]:
        pairs = []
        for request in requests:
            context, continuation = request.args
            if context:
                pairs.append(self._encode_pair(context, continuation))
                continue
            ids = self.tok_encode(continuation, add_special_tokens=False)
            own_prefix = ids[:1] == [self.prefix_token_id]
            pairs.append((ids[:1], ids[1:]) if own_prefix else ([self.prefix_token_id], ids))
        tasks = [request.task_name for request in requests]
        made = [
            self._request(context, continuation, task)
            for (context, continuation), task in zip(pairs, tasks, strict=True)
        ]
        return self.score(made, tasks, _total_and_greedy)

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text, in windows of `length` tokens.

        With `stride`, a window begins every `stride` tokens and scores the tokens that no window
        before it scored. A request that carries a window plan (`ctxbench.tasks.windows`) is
        answered by a dictionary of its sums instead.
        """
        answers: list[Any] = [None] * len(requests)
        made, owners, tasks = [], [], []
        for number, request in enumerate(requests):
            if (asked := getattr(request.args[0], "ctx_request", None)) is not None:
                answers[number] = self._window_sums(asked, request.task_name)
                continue
            answers[number] = 0.0
            for window in self._rolling_windows(self.tok_encode(request.args[0])):
                made.append(window)
                owners.append(number)
                tasks.append(request.task_name)
        for number, (total, _) in zip(
            owners, self.score(made, tasks, _total_and_greedy), strict=True
        ):
            answers[number] += total
        return answers

    def _window_sums(self, asked: dict[str, Any], task: str | None) -> dict[str, list[float]]:
        """Answer a window plan: losses per window and, if asked, per position, nats in float64."""
        if asked.get("ctx_request") != "windows":
            raise ValueError(
                f"Task {task or '?'} makes a request of kind {asked.get('ctx_request')!r}; this "
                "ctxext knows 'windows'. Install matching versions of the task and ctxbench."
            )
        ids, bucket = asked["ids"], int(asked["bucket"])
        windows = []
        for start, first, end in asked["windows"]:
            if not 0 <= start < first < end <= len(ids):
                raise ValueError(
                    f"Task {task or '?'} asks for the window {[start, first, end]} of {len(ids)} "
                    "tokens; allowed is context_start < score_start < end. Mend the task."
                )
            length = self.final_length(end - start, task)
            windows.append(Request(ids[start:end], first - start, length))
        answers = self.score(
            windows, [task] * len(windows), functools.partial(_loss_and_buckets, bucket), bucket
        )
        sums = {"sums": [loss for loss, _ in answers]}
        if bucket:
            longest = max((len(buckets) for _, buckets in answers), default=0)
            sums["positions"] = [
                sum(buckets[i] for _, buckets in answers if i < len(buckets))
                for i in range(longest)
            ]
        return sums

    def _rolling_windows(self, ids: list[int]) -> list[Request]:
        window = self.max_length
        kept = 1 if self.stride is None else window - self.stride + 1
        pairs = map(
            utils.make_disjoint_window,
            utils.get_rolling_token_windows(
                token_list=ids,
                prefix_token=self.prefix_token_id,
                max_seq_len=window,
                context_len=kept,
            ),
        )
        return [
            Request(
                [*context, *continuation],
                len(context),
                min(len(context) + len(continuation), window),
            )
            for context, continuation in pairs
        ]

    def _request(self, context: list[int], continuation: list[int], task: str | None) -> Request:
        if not continuation:
            raise ValueError(
                f"A request of task {task or '?'} has an empty continuation after tokenisation, "
                "so there is nothing to score. Mend the task's target."
            )
        tokens = len(context) + len(continuation)
        excess = tokens - self.max_length - self.special_tokens
        if self.truncation and excess > 0:
            self._count_truncated(excess)
            context = context[excess:]
            tokens -= excess
        length = self.final_length(tokens, task)
        return Request([*context, *continuation], len(context), length)

    def score(
        self,
        requests: Sequence[Request],
        tasks: Sequence[str | None],
        reduce: Callable[[Request, Score], Any],
        detail: object = None,
    ) -> list[Any]:
        """Score token requests through the answer cache.

        Args:
            requests: to score; equal ones are computed once.
            tasks: the task of each, for the progress shown.
            reduce: makes the answer, a tuple or list of plain values, of a request and its score.
            detail: what `reduce` depends on, for the cache.

        Returns:
            The answers in the order of the requests.
        """
        keys = [
            AnswerCache.key("loglikelihood", list(r.ids), r.first, r.final_length, detail)
            for r in requests
        ]
        found = self._kept(keys)
        once = list({key: i for i, key in enumerate(keys)}.values())  # equal requests
        work = {
            number: (tasks[i] or "requests", len(requests[i].ids))
            for number, i in enumerate(once)
            if keys[i] not in found
        }
        with Progress(work.values(), "scoring", show=self.rank == 0) as progress:

            def done(number: int, score: Score) -> None:
                at = once[number]
                found[keys[at]] = reduce(requests[at], score)
                if self.answers:
                    self.answers.put([(keys[at], found[keys[at]])])
                progress.advance(*work[number])

            self.scorer.score([requests[i] for i in once], done, work)
        return [tuple(found[key]) for key in keys]

    def _kept(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the answers that the cache holds."""
        if self.answers is None:
            return {}
        return {key: a for key in set(keys) if (a := self.answers.get(key)) is not None}

    # ------------------------------------------------------------- generation

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> str:
        """Return a conversation as one prompt; see HFLM."""
        self.chat.applying()
        return super().apply_chat_template(*args, **kwargs)

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Return the continuation of each prompt up to a stop string."""
        self.chat.generating()
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        # every group's arguments are looked at before the first group costs time
        asked = {key: self._generation(requests[numbers[0]]) for key, numbers in groups.items()}
        texts: dict[int, str] = {}
        for key, numbers in groups.items():
            group = [requests[i] for i in numbers]
            texts.update(zip(numbers, self._generate_group(group, *asked[key]), strict=True))
        return [texts[number] for number in range(len(requests))]

    def _generation(self, request) -> tuple[dict[str, Any], list[str], str]:
        """Return arguments for transformers, stop strings, and what to do with long prompts.

        Raises:
            ValueError: they make no sense, or leave no room for a prompt.
        """
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)  # type: ignore[arg-type]
        options: dict[str, Any] = dict(normalize_gen_kwargs(request.args[1], self.max_gen_toks))
        until = handle_stop_sequences(options.pop("until", None), eos=eos)
        new_tokens = int(options.pop("max_gen_toks"))
        overflow = options.pop("ctx_overflow", "left" if self.truncation else "error")
        if overflow not in OVERFLOW:
            raise ValueError(
                f"ctx_overflow={overflow!r} is not allowed; it is one of {', '.join(OVERFLOW)}. "
                "Mend the task's generation_kwargs."
            )
        if self._room(new_tokens) < 1:
            raise ValueError(
                f"Task {request.task_name or '?'} generates up to {new_tokens} tokens, which "
                f"leaves no room for a prompt in the window of {self.max_length} tokens. Give a "
                "larger length."
            )
        return {**_sampling(options), "max_new_tokens": new_tokens}, until, overflow

    def _room(self, new_tokens: int) -> int:
        """Return how many tokens a prompt may have."""
        return self.max_length - new_tokens + self.special_tokens

    def _generate_group(
        self, requests, options: dict[str, Any], until: list[str], overflow: str
    ) -> list[str]:
        """Continue prompts that share generation arguments."""
        new_tokens = options["max_new_tokens"]
        prompts = [self._prompt(r, new_tokens, overflow) for r in requests]
        sampled = bool(options.get("do_sample"))
        keys = [AnswerCache.key("generate", list(p.ids), p.length, options, until) for p in prompts]
        found = {} if sampled else self._kept(keys)
        if sampled:  # every repeat is a draw of its own
            keys = [f"{key}-{number}" for number, key in enumerate(keys)]
        once = list({key: i for i, key in enumerate(keys)}.values())
        work = {
            number: (requests[i].task_name or "requests", prompts[i].length)
            for number, i in enumerate(once)
            if keys[i] not in found
        }
        with Progress(work.values(), "generating", show=self.rank == 0) as progress:

            def done(number: int, new: list[int]) -> None:
                key = keys[once[number]]
                found[key] = self._text(new, until)
                if self.answers and not sampled:
                    self.answers.put([(key, found[key])])
                progress.advance(*work[number])

            self.generator.generate(
                [prompts[i] for i in once],
                options,
                lambda width, rows: stop_sequences_criteria(self.tokenizer, until, width, rows),
                done,
                work,
            )
        return [found[key] for key in keys]

    def _prompt(self, request, new_tokens: int, overflow: str) -> Prompt:
        ids = self.tok_encode(request.args[0]) or [self.prefix_token_id]
        room = self._room(new_tokens)
        excess = len(ids) - room
        if excess > 0 and overflow in ("left", "middle"):
            self._count_truncated(excess)
            if overflow == "left":
                ids = ids[excess:]
            else:
                ids = [*ids[: room // 2], *ids[len(ids) - (room - room // 2) :]]
        return Prompt(ids, self.final_length(len(ids) + new_tokens, request.task_name, overflow))

    def _text(self, new: list[int], until: list[str]) -> str:
        """Return generated tokens as text, cut at the first stop string."""
        text = self.tok_decode(new)  # type: ignore[arg-type]
        thinking = self.think_end_token
        return postprocess_generated_text(
            generation=str(text),
            stop=until,
            think_end_token=thinking if isinstance(thinking, str) else None,
        )

    def _count_truncated(self, tokens: int) -> None:
        self.counts["truncated"] += 1
        self.counts["truncated_tokens"] += tokens


def _total_and_greedy(request: Request, score: Score) -> tuple[float, bool]:
    del request
    return score.total, score.greedy


def _loss_and_buckets(bucket: int, request: Request, score: Score) -> tuple[float, list[float]]:
    """Return the summed loss of a window and its sums over buckets of positions."""
    if not bucket:
        return -score.total, []
    losses = -score.logprobs.double()
    where = torch.arange(request.first, len(request.ids)) // bucket
    sums = torch.zeros(int(where[-1]) + 1, dtype=torch.float64).index_add_(0, where, losses)
    return -score.total, sums.tolist()


def launched_processes() -> int:
    """Return how many processes the launcher started (`WORLD_SIZE`), 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def _join_processes(device: str | None) -> None:
    """Let Accelerate join processes on CPUs: without this it takes them for independent runs."""
    on_cpu = not torch.cuda.is_available() or str(device) == "cpu"
    if launched_processes() > 1 and on_cpu:
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def split_arguments(
    pretrained: Any, method: str | None, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split model arguments into those of the method and those of HFLM and transformers.

    Raises:
        ValueError: an argument belongs to neither; the message lists near names.
    """
    name = method
    if name is None and isinstance(pretrained, str):
        record = read_record(load_config(resolve_model(pretrained)))
        name = record.method if record else None
    base, _ = method_and_options(name or "none")
    options = {field.name for field in fields(method_class(base))} | set(STATEMENTS)
    harness = set(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs"}
    asked = {key: value for key, value in given.items() if key in options}
    others = {key: value for key, value in given.items() if key not in options}
    for key in others:
        if key not in harness and key not in FROM_PRETRAINED:
            near = near_names(key, [*options, *harness, *FROM_PRETRAINED])
            raise ValueError(
                f"ctxext has no argument {key!r}{near} Options of method={base}: "
                f"{', '.join(sorted(options - set(STATEMENTS))) or 'none'}; about the method: "
                f"{', '.join(STATEMENTS)}; others as for --model hf."
            )
    return asked, others


def _check_max_length(max_length: int, length: int | str | None) -> None:
    if length is not None and parse_length(length) != max_length:
        raise ValueError(
            f"length={length} and max_length={max_length} disagree; both mean the window at "
            "evaluation. Give length alone."
        )


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    """Return generation arguments for transformers: greedy unless sampling was asked for."""
    if not options.get("do_sample"):
        greedy = {k: v for k, v in options.items() if k not in ("temperature", "top_p", "top_k")}
        return {**greedy, "do_sample": False}
    return options
