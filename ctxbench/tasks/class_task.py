"""What lm-eval's tasks of a class of their own (`class:` in the YAML) have in common."""

from typing import Generic, TypeVar

from lm_eval.api.task import ConfigurableTask

from ctxbench.core.compat.lm_eval import check_task_hooks

Shared = TypeVar("Shared")


class ClassTask(ConfigurableTask, Generic[Shared]):
    """A task whose YAML names its class.

    Attributes:
        shared: what its documents have in common, of which the log has nothing; see `documents`.
    """

    shared: Shared

    def __init__(self, config: dict):
        check_task_hooks()
        # lm-eval hands the whole file on, and its own constructor does not know the key `class`.
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs=None, **kwargs) -> None:
        """Build the documents."""
        super().download(dataset_kwargs, **kwargs)
        self.shared = self.dataset.pop("shared", None)
