"""The lm-eval task: the shots of a run once in memory, a prompt per question, labels to score."""

from lm_eval.api.instance import Instance

from ctxbench.tasks.class_task import ClassTask
from ctxbench.tasks.manyshot.dataset import Shots


class ManyShotTask(ClassTask[Shots]):
    """Asks for the log-likelihood of every label, and of every branch of the label trie."""

    def doc_to_text(self, doc: dict, doc_to_text=None) -> str:
        """Return the prompt of a question."""
        return self.shared.runs[doc["run"]] + self.shared.query.format(doc["question"])

    def construct_requests(self, doc: dict, ctx: str, **kwargs) -> list[Instance]:
        """Return one request per continuation, all with the same prompt."""
        kwargs.pop("apply_chat_template", None)
        kwargs.pop("chat_template", None)
        return [
            Instance("loglikelihood", doc=doc, arguments=(ctx, text), idx=idx, **kwargs)
            for idx, text in enumerate(doc["continuations"])
        ]
