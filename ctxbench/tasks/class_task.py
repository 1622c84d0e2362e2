"""What all tasks of ours have in common as lm-eval's tasks of a class (`class:` in the YAML)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from lm_eval.api.task import ConfigurableTask

from ctxbench.core.compat.lm_eval import check_task_hooks, model_in_use
from ctxbench.tasks.chat import chat_of, chat_texts
from ctxbench.tasks.fit import look_at
from ctxbench.tasks.tokenizer import load_tokenizer, tokenizer_name

log = logging.getLogger(__name__)

Shared = TypeVar("Shared")


class ClassTask(ConfigurableTask, Generic[Shared]):
    """A task that counts what the harness puts around its prompts, and looks whether they fit.

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

    def build_all_requests(self, **kwargs: Any) -> None:
        """Build the requests and, in an evaluation, look at all before the first costs time.

        Raises:
            ValueError: some do not fit the model's window, or metadata `chat` contradicts the
                command.
        """
        name = self.config.task
        if kwargs.get("cache_requests"):
            raise ValueError(
                f"{name}: --cache_requests keeps prompts under the task's name alone, so those of "
                "another seed, length of answer or fidelity would come back. Leave it out: what is "
                "slow to make is cached by all that decides it."
            )
        if self.config.num_fewshot:
            raise ValueError(
                f"{name}: num_fewshot={self.config.num_fewshot}, but its prompts have no few-shot "
                "examples besides those it is made of (of many-shot tasks, as many as the name "
                "says). Leave --num_fewshot out."
            )
        template = kwargs.get("chat_template") if kwargs.get("apply_chat_template") else None
        if (self.config.metadata or {}).get("chat"):
            self._count_chat(template, kwargs.get("system_instruction"))
        elif template is not None:
            self._note_chat()
        super().build_all_requests(**kwargs)
        if (model := model_in_use()) is None:
            return  # to plan, or to look at them
        metadata = dict(self.config.metadata or {})
        metadata.pop("prompts", None)
        found = look_at(str(self.config.task), self.instances, metadata, model)
        self.set_config("metadata", {**metadata, "prompts": found.recorded()})

    def _note_chat(self) -> None:
        """Say, and note in the results, that a chat template is applied and not counted.

        Raises:
            ValueError: metadata says that none is.
        """
        metadata = dict(self.config.metadata or {})
        if metadata.get("chat") is not None:
            raise ValueError(
                f"{self.config.task}: metadata chat=false says that no chat template is applied, "
                "and --apply_chat_template was given. Leave one of them out, or give chat=true to "
                "count it."
            )
        if not (self.config.dataset_kwargs or {}).get("ctx_length"):
            return  # its prompts have no length of their own
        log.warning(
            "%s: the chat template comes on top of the length in the task's name. RULER, niah and "
            "passkey count it with --metadata '{\"chat\": true}'.", self.config.task,
        )  # fmt: skip
        self.set_config("metadata", {**metadata, "chat_template": "applied, not counted"})

    def _count_chat(self, template: Callable[..., Any] | None, system: str | None) -> None:
        """Make the documents again if the harness puts other texts around them than were counted.

        Raises:
            ValueError: it puts none.
        """
        if template is None:
            raise ValueError(
                f"{self.config.task}: metadata chat=true counts a chat template, but none is "
                "applied. Add --apply_chat_template, or leave chat=true out."
            )
        metadata = dict(self.config.metadata)
        prefixed = bool(self.config.gen_prefix)
        tokenizer = load_tokenizer(tokenizer_name(**metadata))
        found = chat_texts(tokenizer, prefixed=prefixed, system=system, apply=template)
        if found == chat_of(metadata, prefixed=prefixed):
            return
        log.info("%s: made again, to count the chat template as it is applied", self.config.task)
        self.set_config("metadata", {**metadata, "chat_texts": list(found)})
        self.download(self.config.dataset_kwargs)
        self.task_docs = self.eval_docs
