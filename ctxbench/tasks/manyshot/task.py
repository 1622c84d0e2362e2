"""The lm-eval task: the shots of a run once in memory, a prompt per question, labels to score."""

from lm_eval.api.instance import Instance

from ctxbench.tasks.class_task import ClassTask


class ManyShotTask(ClassTask):
    """Asks for the log-likelihood of every label, and of every branch of the label trie."""

    def download(self, dataset_kwargs=None, **kwargs) -> None:
        """Build the questions; the shots stay here, they would be repeated in every log line."""
        super().download(dataset_kwargs, **kwargs)
        self.shots = self.dataset.pop("shots")
        self.query = self.dataset.pop("query")

    def doc_to_text(self, doc: dict, doc_to_text=None) -> str:
        """Return the prompt of a question."""
        return self.shots[doc["run"]] + self.query.format(doc["question"])

    def construct_requests(self, doc: dict, ctx: str, **kwargs) -> list[Instance]:
        """Return one request per continuation, all with the same prompt."""
        kwargs.pop("apply_chat_template", None)
        kwargs.pop("chat_template", None)
        return [
            Instance("loglikelihood", doc=doc, arguments=(ctx, text), idx=idx, **kwargs)
            for idx, text in enumerate(doc["continuations"])
        ]
