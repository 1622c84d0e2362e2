"""The lm-eval task: like any other, but some prompts are never wrapped in a chat template."""

from lm_eval.api.instance import Instance

from ctxbench.tasks.class_task import ClassTask
from ctxbench.tasks.longbench.dataset import NEVER_CHAT


class LongBenchTask(ClassTask):
    """A generation task whose chat wrapping follows the official code, data set by data set."""

    def fewshot_context(
        self,
        doc: dict,
        num_fewshot: int,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        *args,
        **kwargs,
    ):
        """Return the prompt, plain where the official code leaves it plain.

        Raises:
            ValueError: the prompt would be wrapped twice.
        """
        if apply_chat_template and doc["wrapping"] != "harness":
            raise ValueError(
                f"{self.config.task}: metadata wrapping={doc['wrapping']!r} writes a chat around "
                "the prompts, and --apply_chat_template would write another. Allowed is one of the "
                "two: leave out --apply_chat_template, or give wrapping=harness."
            )
        if doc["dataset"].removesuffix("_e") in NEVER_CHAT:
            return doc["prompt"]
        return super().fewshot_context(
            doc, num_fewshot, system_instruction, apply_chat_template, *args, **kwargs
        )

    def construct_requests(self, doc: dict, ctx: str, **kwargs):
        """Return the request; one that is meant to pass the window says so to `ctxext`.

        A model that does not know `ctx_overflow` refuses it, and would have cut the prompt.
        """
        request = super().construct_requests(doc, ctx, **kwargs)
        assert isinstance(request, Instance)  # a list only where there are choices
        if doc["may_pass_window"]:
            request.arguments[1]["ctx_overflow"] = "allow"
        return request
