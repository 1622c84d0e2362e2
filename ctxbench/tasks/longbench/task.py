"""The lm-eval task: like any other, but some prompts are never wrapped in a chat template."""

from lm_eval.api.instance import Instance

from ctxbench.tasks.class_task import ClassTask
from ctxbench.tasks.longbench.dataset import NEVER_CHAT


class LongBenchTask(ClassTask):
    """A generation task whose chat wrapping follows the official code, data set by data set."""

    def fewshot_context(self, doc: dict, num_fewshot: int, *args, **kwargs):
        """Return the prompt, plain where the official code leaves it plain."""
        if doc["dataset"].removesuffix("_e") in NEVER_CHAT:
            return doc["prompt"]
        return super().fewshot_context(doc, num_fewshot, *args, **kwargs)

    def construct_requests(self, doc: dict, ctx: str, **kwargs):
        """Return the request; one that is meant to pass the window says so to `ctxext`.

        A model that does not know `ctx_overflow` refuses it, and would have cut the prompt.
        """
        request = super().construct_requests(doc, ctx, **kwargs)
        assert isinstance(request, Instance)  # a list only where there are choices
        if doc["may_pass_window"]:
            request.arguments[1]["ctx_overflow"] = "allow"
        return request
