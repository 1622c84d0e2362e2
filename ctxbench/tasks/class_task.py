"""What lm-eval's tasks of a class of their own (`class:` in the YAML) have in common."""

from lm_eval.api.task import ConfigurableTask

from ctxbench.core.compat.lm_eval import check_task_hooks


class ClassTask(ConfigurableTask):
    """A task whose YAML names its class."""

    def __init__(self, config: dict):
        check_task_hooks()
        # lm-eval hands the whole file on, and its own constructor does not know the key `class`.
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
