"""The 13 subtasks: which family, with which options, scored how.

Source: github.com/NVIDIA/RULER, scripts/synthetic.yaml and scripts/eval/synthetic/constants.py.
"""

from dataclasses import dataclass, field
from typing import Any

from ctxbench.tasks.ruler.cwe import CommonWords
from ctxbench.tasks.ruler.family import Family, RulerSettings
from ctxbench.tasks.ruler.fwe import FrequentWords
from ctxbench.tasks.ruler.niah import Niah
from ctxbench.tasks.ruler.qa import QuestionAnswering
from ctxbench.tasks.ruler.vt import VariableTracking


@dataclass(frozen=True)
class Subtask:
    """One of the 13.

    Attributes:
        family: makes its samples.
        category: of the paper: retrieval, tracing, aggregation or qa.
        any_reference: one reference is enough for the full score; else each counts its share.
        options: of the family.
        data: local data it needs.
    """

    family: type[Family]
    category: str
    any_reference: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ()

    def make(self, settings: RulerSettings) -> Family:
        """Return the family under some settings."""
        return self.family(settings, **self.options)


def _niah(haystack: str, key: str = "words", value: str = "numbers", **counts: int) -> Subtask:
    options = {"haystack": haystack, "key": key, "value": value, **counts}
    return Subtask(Niah, "retrieval", options=options, data=("essays",) * (haystack == "essay"))


def _qa(dataset: str) -> Subtask:
    return Subtask(QuestionAnswering, "qa", True, {"dataset": dataset}, (dataset,))


SUBTASKS = {
    "niah_single_1": _niah("noise"),
    "niah_single_2": _niah("essay"),
    "niah_single_3": _niah("essay", value="uuids"),
    "niah_multikey_1": _niah("essay", keys=4),
    "niah_multikey_2": _niah("needle"),
    "niah_multikey_3": _niah("needle", key="uuids", value="uuids"),
    "niah_multivalue": _niah("essay", values=4),
    "niah_multiquery": _niah("essay", keys=4, queries=4),
    "vt": Subtask(VariableTracking, "tracing"),
    "cwe": Subtask(CommonWords, "aggregation"),
    "fwe": Subtask(FrequentWords, "aggregation"),
    "qa_1": _qa("squad"),
    "qa_2": _qa("hotpotqa"),
}

CATEGORIES: dict[str, tuple[str, ...]] = {
    category: tuple(name for name, task in SUBTASKS.items() if task.category == category)
    for category in dict.fromkeys(task.category for task in SUBTASKS.values())
}
"""Category of the paper -> its subtasks."""
