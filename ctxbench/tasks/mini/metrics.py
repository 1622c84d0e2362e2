"""Scores of the mini tasks."""

import math
from typing import Any

from lm_eval.api.instance import Instance

from ctxbench.tasks.class_task import ClassTask


def exact(doc: dict, results: list[str]) -> dict[str, float]:
    """Return 1 if the first word generated is the value asked for, else 0."""
    first = results[0].split()[:1]
    return {"score": float(first == [doc["answer"]])}


def target_loss(doc: dict, results: list) -> dict[str, Any]:
    """Return the mean loss per target token (nats), and what perplexity is summed from."""
    total = results[0][0]
    tokens = doc["target_tokens"]
    return {"nll": -total / tokens, "perplexity": (total, tokens)}


def token_perplexity(items: list[tuple[float, int]]) -> float:
    """Return exp of the mean negative log-likelihood over all target tokens."""
    return math.exp(-sum(total for total, _ in items) / sum(tokens for _, tokens in items))


def all_greedy(doc: dict, results: list) -> dict[str, float]:
    """Return whether all answers are the most likely ones, and the share that is."""
    del doc
    right = [float(greedy) for _, greedy in results]
    return {"score": float(all(right)), "each": sum(right) / len(right)}


class MultiQuery(ClassTask):
    """Several questions about one text, each after the right answers to those before it."""

    def construct_requests(self, doc: dict, ctx: Any, **kwargs: Any) -> list[Instance]:
        """Return one log-likelihood request per question."""
        del ctx
        kept = {key: value for key, value in kwargs.items() if key in ("metadata", "doc_id")}
        return [
            Instance("loglikelihood", doc=doc, arguments=(context, f" {answer}"), idx=idx, **kept)
            for idx, (context, answer) in enumerate(
                zip(doc["contexts"], doc["answers"], strict=True)
            )
        ]
