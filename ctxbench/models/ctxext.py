"""`ctxext`: the lm-eval model that runs any extension method.

A request of the harness is tokenised, checked against the window, looked up among the answers kept
on disk, computed on the engine, and kept as soon as it is known.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.models.utils_hf import stop_sequences_criteria

from ctxbench.core.compat.lm_eval import keeps_answers
from ctxbench.core.compat.transformers import attention_of
from ctxbench.core.errors import show_user_errors_plainly
from ctxbench.core.lengths import parse_length
from ctxbench.core.processes import summed
from ctxbench.core.windows import WindowedText, WindowLosses
from ctxbench.models.answers import (
    AnswerCache,
    answer_all,
    config_content,
    fingerprint,
    tokenizer_content,
    weights_hash,
)
from ctxbench.models.arguments import (
    DEFAULT,
    NO_MODEL,
    check_kinds,
    is_nothing,
    rows_at_once,
    stride_asked,
)
from ctxbench.models.checks import ChatCheck, end_of_turn
from ctxbench.models.context_window import ContextWindow
from ctxbench.models.cost import describe_run
from ctxbench.models.engine import Engine
from ctxbench.models.extended import ExtendedHFLM
from ctxbench.models.generating import Generator
from ctxbench.models.generation_settings import (
    GenerationReport,
    GenerationSettings,
    read_checkpoint,
    settings_for,
)
from ctxbench.models.reasoning import Reasoning, tokens_of_reasoning
from ctxbench.models.request_sizes import RequestSizes
from ctxbench.models.requests import (
    GenerationRequest,
    Origin,
    ScoringRequest,
    counted_by,
    origin_of,
)
from ctxbench.models.scoring import Scorer
from ctxbench.models.text_encoding import TextEncoder, split_by_size
from ctxbench.models.windows import loss_and_buckets, rolling_windows, window_losses

log = logging.getLogger(__name__)


@register_model("ctxext")
class CtxExt(ExtendedHFLM):
    """HFLM with an extension method, exact scoring, shared prefixes and safe resuming.

    Takes every argument of HFLM that it can follow, refuses the others by name, and:

    Args:
        pretrained: folder, hub id, the bundled `mini`, or a model in memory. Where no argument at
            all is given the bundled model runs with `dynamic_ntk`, as long as the tasks need it.
        method: extension method or preset (`ctxbench ls`); None: what the checkpoint was made
            with, else `none`.
        length: window at evaluation in tokens, `32768` or `32k`.
        stride: tokens between the starts of rolling log-likelihood windows; default the window:
            disjoint windows, as HFLM.
        window_bos: whether every window of rolling log-likelihoods begins with BOS; for models
            that fail without (Gemma).
        share_prefixes: compute common beginnings of requests once where the method allows.
        prefill_chunk: tokens fed at once, of one row; default all that memory allows.
        reasoning_tokens: that may come before an answer, besides those of the task; for models that
            reason.
        cache: folder for answers; a killed run started again goes on from them.
        kwargs: the method's options; `adopt`, `override`, `trained_length`, `original_length` (see
            `ctxbench.load_model`); arguments of HFLM and of `from_pretrained`.

    Raises:
        ValueError: unknown or contradictory arguments; later, a request that does not fit.
    """

    def __init__(
        self,
        pretrained: Any = None,
        method: str | None = None,
        length: int | str | None = None,
        *,
        stride: int | str | None = None,
        window_bos: bool = False,
        share_prefixes: bool = True,
        prefill_chunk: int | str | None = None,
        reasoning_tokens: int | str | None = None,
        cache: str | None = None,
        batch_size: int | str = 1,
        **kwargs: Any,
    ):
        show_user_errors_plainly()
        self.encoder: Any = None  # once there is a tokenizer
        self.window: Any = None
        automatic = str(batch_size).startswith("auto")
        rows = None if automatic else rows_at_once("batch_size", batch_size)
        most = kwargs.get("max_batch_size")
        most = 64 if most is None else rows_at_once("max_batch_size", most)
        given = (method, length, stride, window_bos or None, prefill_chunk, cache, *kwargs)
        self.is_default = pretrained is None and is_nothing(given)
        if self.is_default:
            pretrained, method = DEFAULT
        elif pretrained is None:
            raise ValueError(NO_MODEL)
        check_kinds({"cache": str(cache) if isinstance(cache, Path) else cache})
        super().__init__(pretrained, method, length, batch_size=rows or 1, **kwargs)
        known = self.hf_model.get_input_embeddings().weight.shape[0]
        self.encoder = TextEncoder(super().tok_encode, self.tokenizer, known)
        self.chat = ChatCheck(self.tokenizer)
        self.window_bos = bool(window_bos)
        self.stride = stride_asked(stride, self.max_length)
        special = self.tok_encode("")
        bos = self.tokenizer.bos_token_id
        self.window = ContextWindow(
            self.ctx_method.length, len(special), bos, grows=self.is_default
        )
        engine = Engine(
            self.hf_model,
            self.ctx_method,
            batch_size=rows,
            max_batch_size=most,
            prefill_chunk=None if prefill_chunk is None else parse_length(prefill_chunk),
            share_prefixes=share_prefixes,
        )
        self.scorer = Scorer(engine)
        self.generator = Generator(engine, int(self.tokenizer.pad_token_id))  # type: ignore
        self.reasoning = Reasoning(
            self.tokenizer,
            self.think_end_token,
            tokens_of_reasoning(reasoning_tokens),
        )
        self.generation = GenerationReport(read_checkpoint(self.hf_model, self.tokenizer))
        self.answers = AnswerCache(cache, self.fingerprint()) if cache else None
        self.sizes = RequestSizes(
            self.window,
            prompt=lambda text: max(1, len(self.tok_encode(text))),
            scored=lambda request: self._encode_request(request).size,
            groups=self._groups,
            truncates=bool(self.truncation),
        )
        self._answered = False
        self._counts = self._own_counts()

    @property
    def max_length(self) -> int:
        """The window, tokens."""
        return self.window.length if self.window else super().max_length

    @property
    def any_length(self) -> bool:
        """Whether requests of any length are taken: cut, or the window follows them."""
        return bool(self.truncation) or self.is_default

    def fingerprint(self) -> str:
        """Return a hash of all that decides an answer besides the request.

        Weights, adapters, the whole config, the tokenizer with its rules, method, options, window,
        dtype, attention and versions.
        """
        import transformers

        adapters = getattr(self.model, "peft_config", {})
        found = {
            "weights": weights_hash(self.model.state_dict().items()),
            "adapters": {name: config.to_dict() for name, config in adapters.items()},
            "config": config_content(self.hf_model.config),
            "tokenizer": tokenizer_content(self.tokenizer),
            **self.identity(),
            "stride": self.stride,
            "dtype": str(self.hf_model.dtype),
            "attention": attention_of(self.hf_model.config),
            "versions": [torch.__version__, transformers.__version__],
        }
        return fingerprint(found)

    def get_model_info(self) -> dict:
        """Return HFLM's entries and the method, options, lengths, device and counts of this run."""
        devices = sorted({str(parameter.device) for parameter in self.hf_model.parameters()})
        ours = {**self.identity(), **self.attached(), "device": ", ".join(devices), **self._counts}
        ours |= self.generation.recorded()
        if self.encoder.appended:
            ours["appended_tokens_removed"] = self.encoder.appended
        if self.is_default:
            ours["no_model_given"] = "pretrained={},method={}".format(*DEFAULT)
        if self.chat.merges_system:
            ours["system_message"] = "in the user's first message"
        if self.ctx_method.needs_training and not ours.get("trained_length"):
            ours["untrained"] = True
        return {**super().get_model_info(), "ctxbench": ours}

    def set_cache_hook(self, cache_hook) -> None:
        """Refuse the harness's `--use_cache`, whose keys do not know the model."""
        if keeps_answers(cache_hook):
            raise ValueError(
                "--use_cache keeps answers by prompt alone, so one method's would be served to "
                "another. Leave it out and give the model argument cache=FOLDER: its keys hold "
                "the weights, the method and its options."
            )
        super().set_cache_hook(cache_hook)

    def _own_counts(self) -> dict[str, int]:
        counts = {**self.window.counts(), **self.encoder.counts()}
        return counts | {"answers_without_end_of_reasoning": len(self.generation.reasoning_cut)}

    def _count(self) -> None:
        """Take together what all processes counted; all of them come here after their requests."""
        self._answered = True
        self._counts = summed(self._own_counts(), self.world_size)

    def request_sizes(self, requests: Sequence[Any]) -> list[int]:
        """Return the tokens that each request takes; see `ctxbench.core.windows.LooksAhead`."""
        if self._answered:  # another evaluation begins
            self._answered = False
            self.window.forget()
            self.encoder.forget()
            self.generation = GenerationReport(self.generation.checkpoint)
        return self.sizes.of(requests)

    def _say_cost(self, requests: Sequence[Any], sizes: Sequence[int]) -> None:
        """Say what a run without arguments will take: whoever asked may not expect it."""
        if self.is_default and self.rank == 0:
            kinds = {request.request_type for request in requests}
            new = self.max_gen_toks if "generate_until" in kinds else 0
            log.warning("%s", describe_run(self.hf_model, requests, sizes, new))

    # ------------------------------------------------------------ tokenising

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """Tokenise a text as it is fed, remembering long ones."""
        if args or kwargs or self.encoder is None:
            return super().tok_encode(string, *args, **kwargs)
        return self.encoder.text(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self.encoder.pair(context, continuation)

    # --------------------------------------------------------- log-likelihood

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (sum of log-probabilities, all greedy) of each continuation given its context."""
        if self.enable_thinking:
            raise ValueError(
                "enable_thinking=True makes a model write before it answers, but "
                f"{requests[0].task_name or 'this task'} compares given answers. Leave it out, or "
                "choose tasks that generate."
            )
        self._say_cost(requests, self.sizes.of(requests))  # of all, before the first takes hours
        answers = [
            answer
            for part in split_by_size(requests)
            for answer in self._fit_and_score([self._encode_request(request) for request in part])
        ]
        self._count()
        return answers

    def _loglikelihood_tokens(
        self, requests, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Score (strings, context tokens, continuation tokens); see HFLM."""
        return self._fit_and_score(
            [
                ScoringRequest([*context, *continuation], len(context))
                for _, context, continuation in requests
            ]
        )

    def _encode_request(self, request) -> ScoringRequest:
        """Return the tokens of a request's context and continuation."""
        context, continuation = request.args
        if context:
            before, scored = self._encode_pair(context, continuation)
        else:
            before, scored = [self.prefix_token_id], self.encoder.bare(continuation)
            if scored[:1] == before:
                scored = scored[1:]
        return ScoringRequest([*before, *scored], len(before), origin=origin_of(request))

    def _fit_and_score(self, requests: list[ScoringRequest]) -> list[tuple[float, bool]]:
        for request in requests:
            if request.first == len(request.ids):
                task = request.origin.task or "?"
                raise ValueError(
                    f"A request of task {task} has an empty continuation after tokenisation, so "
                    " there is nothing to score. Correct the task's target."
                )
        return self.score(self.window.fit(requests, truncate=bool(self.truncation)))

    def loglikelihood_rolling(
        self, requests, disable_tqdm: bool = False
    ) -> list[float | WindowLosses]:
        """Return the log-probability of each whole text, in windows of `length` tokens.

        With `stride`, a window begins every `stride` tokens and scores the tokens that no window
        before it scored. A `WindowedText` is answered by the losses of its own windows.
        """
        self.sizes.of(requests)
        texts = [(request.args[0], origin_of(request)) for request in requests]
        answers: list[Any] = [0.0] * len(requests)
        windows, owners = [], []
        for number, (text, origin) in enumerate(texts):
            if isinstance(text, WindowedText):
                answers[number] = self._window_losses(text, origin)
                continue
            ids = self.tok_encode(text)
            if ids[:1] == [self.prefix_token_id]:  # it stands before the text in any case
                ids = ids[1:]
            of_text = rolling_windows(
                ids, self.prefix_token_id, self.max_length, self.stride, origin, self.window_bos
            )
            windows += of_text
            owners += [number] * len(of_text)
        for number, (total, _) in zip(owners, self.score(windows), strict=True):
            answers[number] += total
        self._count()
        return answers

    def _window_losses(self, text: WindowedText, origin: Origin) -> WindowLosses:
        """Return losses per window and, if asked, per position, nats in float64."""
        begin = [self.prefix_token_id] if self.window_bos else []  # for a token without a context
        windows = [
            ScoringRequest(
                [*begin, *text.ids[start + len(begin) : end]], first - start, origin=origin
            )
            for start, first, end in text.windows
        ]
        answers = self.score(self.window.fit(windows, truncate=False), text.bucket)
        return window_losses(answers, text.bucket)

    def score(
        self, requests: Sequence[ScoringRequest], bucket: int | None = None
    ) -> list[tuple[Any, Any]]:
        """Score token requests through the answer cache.

        Args:
            requests: to score; equal ones are computed once.
            bucket: None: answer (sum of log-probabilities, all greedy); else `loss_and_buckets`.

        Returns:
            The answers in the order of the requests.
        """
        keys = [
            AnswerCache.key("loglikelihood", list(r.ids), r.first, r.final_length, bucket)
            for r in requests
        ]

        def compute(once: Sequence[ScoringRequest], wanted: Collection[int]):
            for number, score in self.scorer.score(once, wanted):
                if bucket is None:
                    yield number, (score.total, score.greedy)
                else:
                    yield number, loss_and_buckets(once[number], score, bucket)

        show = self.rank == 0
        found = answer_all(self.answers, requests, keys, compute, "scoring", show=show)
        return [tuple(answer) for answer in found]

    # ------------------------------------------------------------- generation

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as one prompt; see `ChatCheck.prompt`."""
        return self.chat.prompt(chat_history, add_generation_prompt, self.chat_template_args)

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Return the continuation of each prompt up to a stop string."""
        self.chat.generating()
        self._say_cost(requests, self.sizes.of(requests))  # of every group, before the first
        texts: dict[int, str] = {}
        for settings, numbers in self._groups(requests):
            answers: list[str] = []
            for part in split_by_size([requests[n] for n in numbers]):
                made = [self._generation_request(request, settings) for request in part]
                answers += self._generate(made, settings)
            texts.update(zip(numbers, answers, strict=True))
        self._count()
        return [texts[number] for number in range(len(requests))]

    def _groups(self, requests: Sequence[Any]) -> list[tuple[GenerationSettings, list[int]]]:
        """Return the settings of requests, each with the numbers of those that share them."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            prompt, options = request.args
            key = repr((self.chat.made(prompt), sorted(options.items())))
            groups.setdefault(key, []).append(number)
        return [(self._settings([requests[n] for n in ns]), ns) for ns in groups.values()]

    def _settings(self, requests) -> GenerationSettings:
        """Return what is in force for requests with the same generation arguments.

        Raises:
            ValueError: they make no sense, or leave no room for a prompt.
        """
        task = requests[0].task_name
        checkpoint = self.generation.checkpoint
        if (
            self.chat.made(requests[0].args[0])
            and (end := end_of_turn(self.tokenizer, self.chat_template_args)) is not None
        ):
            checkpoint = checkpoint.ending_at(end)
        found = settings_for(
            requests[0].args[1],
            checkpoint,
            new_tokens=self.max_gen_toks,
            end=self.tok_decode(self.eot_token_id, skip_special_tokens=False),  # type: ignore
            overflow="left" if self.truncation else "error",
            reasoning_tokens=self.reasoning.budget([r.args[0] for r in requests], task),
        )
        self.window.check_room(found.new_tokens, task)
        self.generation.note(found, (request.task_name or "?" for request in requests))
        return found

    def _generation_request(self, request: Any, settings: GenerationSettings) -> GenerationRequest:
        origin, after, overflow = origin_of(request), settings.new_tokens, settings.overflow
        ids = self.tok_encode(request.args[0]) or [self.prefix_token_id]
        kept = self.window.truncate(ids, after, overflow, origin)
        length = self.window.final_length(len(kept) + after, origin, overflow)
        inside = self.reasoning.is_open(request.args[0])
        return GenerationRequest(kept, length, origin, reasoning=inside)

    def _generate(
        self, requests: Sequence[GenerationRequest], settings: GenerationSettings
    ) -> list[str]:
        """Continue prompts that share generation settings, through the answer cache."""
        asked = [settings.options, settings.until, self.reasoning.end]
        keys = [
            AnswerCache.key("generate", list(r.ids), r.final_length, *asked, r.reasoning)
            for r in requests
        ]
        if settings.sampled:  # every repeat is a draw of its own
            keys = [f"{key}-{number}" for number, key in enumerate(keys)]

        def compute(once: Sequence[GenerationRequest], wanted: Collection[int]):
            generated = self.generator.generate(
                once, settings.options, self._stopping(settings), wanted
            )
            for number, new in generated:
                yield number, self._answer(new, settings, once[number].reasoning)

        cache = None if settings.sampled else self.answers
        found = answer_all(cache, requests, keys, compute, "generating", show=self.rank == 0)
        self.generation.reasoning_cut |= {
            counted_by(r.origin) for r, (_, cut) in zip(requests, found, strict=True) if cut
        }
        return [text for text, _ in found]

    def _stopping(self, settings: GenerationSettings):
        def stopping(requests: Sequence[GenerationRequest], width: int) -> Any:
            beams = settings.options.get("num_beams", 1)
            inside = [request.reasoning for request in requests for _ in range(beams)]
            if self.reasoning.possible or any(inside):
                return [self.reasoning.stopping(settings.until, width, inside)]
            return stop_sequences_criteria(self.tokenizer, settings.until, width, len(inside))

        return stopping

    def _answer(
        self, new: list[int], settings: GenerationSettings, inside: bool
    ) -> tuple[str, bool]:
        """Return the answer in generated tokens up to the first stop string, and if it was cut."""
        ends = settings.options["eos_token_id"]
        finished = len(new) < settings.new_tokens or any(token in ends for token in new)
        text, cut = self.reasoning.answer(new, inside, finished)
        return postprocess_generated_text(text, settings.until, None), cut
