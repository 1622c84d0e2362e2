"""`ctxext`: the lm-eval model that runs any extension method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.models.utils_hf import stop_sequences_criteria

from ctxbench.core.compat.lm_eval import keeps_answers
from ctxbench.core.compat.transformers import attention_of
from ctxbench.core.errors import show_user_errors_plainly
from ctxbench.models.answers import AnswerCache, answer_all, fingerprint, weights_hash
from ctxbench.models.arguments import generation_arguments, stride_asked
from ctxbench.models.checks import ChatCheck
from ctxbench.models.extended import ExtendedHFLM
from ctxbench.models.fitting import Fitting
from ctxbench.models.generating import Generator, Prompt
from ctxbench.models.pairs import LongContext, parts
from ctxbench.models.scoring import Request, Score, Scorer
from ctxbench.models.windows import (
    loss_and_buckets,
    planned_windows,
    rolling_windows,
    window_sums,
)

show_user_errors_plainly()


@register_model("ctxext")
class CtxExt(ExtendedHFLM):
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
        batch_size: int | str = 1,
        **kwargs: Any,
    ):
        self._tokens: dict[str, list[int]] = {}
        self._context = LongContext(self.tok_encode, self._encode_bare)
        automatic = str(batch_size).startswith("auto")
        super().__init__(
            pretrained, method, length, batch_size=1 if automatic else batch_size, **kwargs
        )
        self.chat = ChatCheck(self.tokenizer)
        self.stride = stride_asked(stride, self.max_length)
        self.scorer = Scorer(
            self.hf_model,
            self.ctx_method,
            batch_size=None if automatic else int(batch_size),
            max_batch_size=int(kwargs.get("max_batch_size", 64)),
            prefill_chunk=prefill_chunk,
            share_prefixes=share_prefixes,
        )
        self.generator = Generator(self.scorer, int(self.tokenizer.pad_token_id))  # type: ignore
        self.fitting = Fitting(self.max_length, special_tokens=len(self.tok_encode("")))
        self.answers = AnswerCache(cache, self.fingerprint()) if cache else None

    def fingerprint(self) -> str:
        """Return a hash of weights, method, options, window, dtype, vocabulary and versions."""
        import transformers

        return fingerprint(
            {
                "weights": weights_hash(self.model.state_dict().items()),
                **self.identity(),
                "stride": self.stride,
                "dtype": str(self.hf_model.dtype),
                "attention": attention_of(self.hf_model.config),
                "tokenizer": len(self.tokenizer),
                "versions": [torch.__version__, transformers.__version__],
            }
        )

    def get_model_info(self) -> dict:
        """Return HFLM's entries and the method, options, lengths and counts of this run."""
        ours = {**self.identity(), **self.fitting.counts()}
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

    # --------------------------------------------------------- log-likelihood

    def _loglikelihood_tokens(
        self, requests, disable_tqdm: bool = False, override_bs: int | None = None, tasks=None
    ) -> list[tuple[float, bool]]:
        """Score (strings, context tokens, continuation tokens); see HFLM."""
        tasks = tasks or [None] * len(requests)
        if not self.truncation:
            self.fitting.check(_sizes([pair for _, *pair in requests], tasks))
        made = [
            self._request(context, continuation, task)
            for (_, context, continuation), task in zip(requests, tasks, strict=True)
        ]
        return self.score(made, tasks, _total_and_greedy)

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (sum of log-probabilities, all greedy) of each continuation given its context."""
        split = list(parts(requests))
        if len(split) > 1 and not self.truncation:  # look at all before the first takes hours
            self.fitting.check(
                size
                for part in split
                for size in _sizes(self._pairs(part), [request.task_name for request in part])
            )
        return [answer for part in split for answer in self._loglikelihood(part)]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenise as HFLM does, of a long context only its end for every continuation."""
        return self._context.pair(context, continuation) or super()._encode_pair(
            context, continuation
        )

    def _encode_bare(self, text: str) -> list[int]:
        return self.tok_encode(text, add_special_tokens=False)

    def _loglikelihood(self, requests) -> list[tuple[float, bool]]:
        tasks = [request.task_name for request in requests]
        pairs = self._pairs(requests)
        return self._loglikelihood_tokens([(None, *pair) for pair in pairs], tasks=tasks)

    def _pairs(self, requests) -> list[tuple[list[int], list[int]]]:
        """Return the tokens of context and continuation of each request."""
        pairs = []
        for request in requests:
            context, continuation = request.args
            if context:
                pairs.append(self._encode_pair(context, continuation))
                continue
            ids = self.tok_encode(continuation, add_special_tokens=False)
            own_prefix = ids[:1] == [self.prefix_token_id]
            pairs.append((ids[:1], ids[1:]) if own_prefix else ([self.prefix_token_id], ids))
        return pairs

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text, in windows of `length` tokens.

        With `stride`, a window begins every `stride` tokens and scores the tokens that no window
        before it scored. A request that carries a window plan (`ctxbench.tasks.windows`) is
        answered by a dictionary of its sums instead.
        """
        answers: list[Any] = [None] * len(requests)
        made, owners, tasks = [], [], []
        plans = [getattr(request.args[0], "ctx_request", None) for request in requests]
        self.fitting.check(
            (end - start, request.task_name)
            for plan, request in zip(plans, requests, strict=True)
            for start, _, end in (plan or {}).get("windows", ())
        )
        for number, request in enumerate(requests):
            if (plan := plans[number]) is not None:
                answers[number] = self._window_sums(plan, request.task_name)
                continue
            answers[number] = 0.0
            ids = self.tok_encode(request.args[0])
            for window in rolling_windows(ids, self.prefix_token_id, self.max_length, self.stride):
                made.append(window)
                owners.append(number)
                tasks.append(request.task_name)
        for number, (total, _) in zip(
            owners, self.score(made, tasks, _total_and_greedy), strict=True
        ):
            answers[number] += total
        return answers

    def _window_sums(self, plan: dict[str, Any], task: str | None) -> dict[str, list[float]]:
        """Answer a window plan: losses per window and, if asked, per position, nats in float64."""
        windows = planned_windows(plan, task, self.fitting.final_length)
        bucket = int(plan["bucket"])
        answers = self.score(
            windows, [task] * len(windows), partial(loss_and_buckets, bucket), bucket
        )
        return window_sums(answers, bucket)

    def _request(self, context: list[int], continuation: list[int], task: str | None) -> Request:
        if not continuation:
            raise ValueError(
                f"A request of task {task or '?'} has an empty continuation after tokenisation, "
                "so there is nothing to score. Mend the task's target."
            )
        if self.truncation:
            context = self.fitting.cut(context, len(continuation), "left")
        length = self.fitting.final_length(len(context) + len(continuation), task)
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
        work = [(task or "requests", len(r.ids)) for task, r in zip(tasks, requests, strict=True)]

        def compute(once: list[int], done: Callable[[int, Any], None], wanted: set[int]) -> None:
            self.scorer.score(
                [requests[i] for i in once],
                lambda number, score: done(number, reduce(requests[once[number]], score)),
                wanted,
            )

        found = answer_all(self.answers, keys, work, compute, "scoring", show=self.rank == 0)
        return [tuple(answer) for answer in found]

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
        # every group's arguments and prompts are looked at before the first group costs time
        asked = {key: self._generation(requests[numbers[0]]) for key, numbers in groups.items()}
        ids = [self.tok_encode(request.args[0]) or [self.prefix_token_id] for request in requests]
        self.fitting.check(
            (len(ids[i]) + asked[key][0]["max_new_tokens"], requests[i].task_name)
            for key, numbers in groups.items()
            for i in numbers
            if asked[key][2] == "error"
        )
        texts: dict[int, str] = {}
        for key, numbers in groups.items():
            group = [(requests[i].task_name, ids[i]) for i in numbers]
            texts.update(zip(numbers, self._generate_group(group, *asked[key]), strict=True))
        return [texts[number] for number in range(len(requests))]

    def _generation(self, request) -> tuple[dict[str, Any], list[str], str]:
        """Return arguments for transformers, stop strings, and what to do with long prompts.

        Raises:
            ValueError: they make no sense, or leave no room for a prompt.
        """
        asked = generation_arguments(
            request.args[1],
            new_tokens=self.max_gen_toks,
            end=self.tok_decode(self.eot_token_id, skip_special_tokens=False),  # type: ignore
            overflow="left" if self.truncation else "error",
        )
        self.fitting.check_room(asked[0]["max_new_tokens"], request.task_name)
        return asked

    def _generate_group(
        self,
        asked: Sequence[tuple[str | None, list[int]]],
        options: dict[str, Any],
        until: list[str],
        overflow: str,
    ) -> list[str]:
        """Continue prompts, each its task and tokens, that share generation arguments."""
        new_tokens = options["max_new_tokens"]
        prompts = [self._prompt(task, ids, new_tokens, overflow) for task, ids in asked]
        keys = [AnswerCache.key("generate", list(p.ids), p.length, options, until) for p in prompts]
        sampled = bool(options.get("do_sample"))
        if sampled:  # every repeat is a draw of its own
            keys = [f"{key}-{number}" for number, key in enumerate(keys)]
        work = [(task or "requests", p.length) for (task, _), p in zip(asked, prompts, strict=True)]

        def compute(once: list[int], done: Callable[[int, str], None], wanted: set[int]) -> None:
            self.generator.generate(
                [prompts[i] for i in once],
                options,
                lambda width, rows: stop_sequences_criteria(self.tokenizer, until, width, rows),
                lambda number, new: done(number, self._text(new, until)),
                wanted,
            )

        cache = None if sampled else self.answers
        return answer_all(cache, keys, work, compute, "generating", show=self.rank == 0)

    def _prompt(self, task: str | None, ids: list[int], new_tokens: int, overflow: str) -> Prompt:
        ids = self.fitting.cut(ids, new_tokens, overflow)
        length = self.fitting.final_length(len(ids) + new_tokens, task, overflow)
        return Prompt(ids, length)

    def _text(self, new: list[int], until: list[str]) -> str:
        """Return generated tokens as text, cut at the first stop string."""
        text = self.tok_decode(new)  # type: ignore[arg-type]
        thinking = self.think_end_token
        return postprocess_generated_text(
            generation=str(text),
            stop=until,
            think_end_token=thinking if isinstance(thinking, str) else None,
        )


def _sizes(
    pairs: Sequence[Sequence[Sequence[int]]], tasks: Sequence[str | None]
) -> list[tuple[int, str | None]]:
    """Return tokens and task of each pair of context and continuation."""
    return [(sum(map(len, pair)), task) for pair, task in zip(pairs, tasks, strict=True)]


def _total_and_greedy(request: Request, score: Score) -> tuple[float, bool]:
    del request
    return score.total, score.greedy
