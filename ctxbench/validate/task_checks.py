"""What every task folder owes, checked with the bundled tokenizer and a dummy model."""

from __future__ import annotations

import inspect
import random
import re
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ctxbench.core.compat.lm_eval import load_task_file, names_of_tasks
from ctxbench.core.errors import near_names
from ctxbench.core.lengths import parse_length
from ctxbench.listing import task_names
from ctxbench.tasks.leaf_files import tasks_path
from ctxbench.validate.checks import Broken, Checks, NotApplicable

CHECKS = Checks()
SAMPLES = 10
"""Prompts that are built of a leaf."""

_LENGTH = re.compile(r"_(\d+[km]?)(?=_|$)")


@dataclass(frozen=True)
class Subject:
    """A folder of task files.

    Attributes:
        folder: that holds them, in any depth.
    """

    folder: Path

    @cached_property
    def files(self) -> dict[Path, dict[str, Any]]:
        """The YAML files with a task or group, includes merged, functions as their names."""
        read = {
            file: load_task_file(file, functions=False)
            for file in sorted(self.folder.rglob("*.yaml"))
            if not file.name.startswith("_")
        }
        found = {
            file: content for file, content in read.items() if {"task", "group"} & set(content)
        }
        if not found:
            raise ValueError(
                f"{self.folder} has no task file. A task is a .yaml file with 'task: NAME'; files "
                "that others include begin with '_'. Give the folder that holds the task files."
            )
        return found

    @cached_property
    def leaves(self) -> dict[str, dict[str, Any]]:
        """Task name -> its content; groups left out."""
        return {
            str(content["task"]): content
            for content in self.files.values()
            if isinstance(content.get("task"), str)
        }

    @cached_property
    def shortest(self) -> str:
        """The leaf that is quickest to build."""
        return min(self.leaves, key=lambda name: length_of(self.leaves[name]) or 0)

    def manager(self, **metadata: Any) -> Any:
        """Return lm-eval's manager over this folder alone."""
        from lm_eval.tasks import TaskManager

        # with a method named, tasks do not hold their length against the mini model's window
        given = {"pretrained": "mini", "method": "none", "tokenizer": "mini", "samples": SAMPLES}
        given |= metadata
        return TaskManager(include_path=str(self.folder), include_defaults=False, metadata=given)

    def build(self, name: str) -> Any:
        """Return a task with `SAMPLES` prompts.

        Raises:
            NotApplicable: its data are not here.
        """
        try:
            return self.manager().load([name])["tasks"][name]
        except FileNotFoundError as error:
            raise NotApplicable(f"{name} needs data: {error}") from error

    @property
    def title(self) -> str:
        """What is checked, in words."""
        return f"{len(self.leaves)} tasks in {self.folder}"


def length_of(content: dict[str, Any]) -> int | None:
    """Return the length of a leaf, tokens; None where it has none."""
    constants = content.get("dataset_kwargs") or {}
    length = constants.get("ctx_length")
    return None if length is None else int(length)


# ------------------------------------------------------------------ the files


@CHECKS.add("use the keys of lm-eval's TaskConfig; what a function needs goes into dataset_kwargs.")
def schema(subject: Subject) -> None:
    """Every file has keys that lm-eval knows, a name, and a version in its metadata."""
    from lm_eval.config.task import TaskConfig

    known = {f.name for f in fields(TaskConfig)} | {"class", "include"}
    for name, content in subject.leaves.items():
        for key in content:
            if key not in known:
                raise Broken(f"{name} has the key {key!r}{near_names(key, known)}")
        if "version" not in (content.get("metadata") or {}):
            raise Broken(f"{name} has no metadata.version, so results do not say which task it was")
    for file, content in subject.files.items():
        named = content.get("task") if "group" not in content else content["group"]
        if isinstance(named, str) and named != file.stem:
            raise Broken(f"{file.name} defines {named}; a file is found by its task's name")


@CHECKS.add("rename the task: lm-eval takes whichever of two equal names it finds first.")
def names(subject: Subject) -> None:
    """No name is the harness's or that of another task here."""
    own = {str(c.get("group") or c.get("task")) for c in subject.files.values()}
    if len(own) != len(subject.files):
        raise Broken("two files define the same task")
    taken = set(harness_names())
    if tasks_path() not in (subject.folder, *subject.folder.parents):
        taken |= {name for family in task_names().values() for name in family}
    if clash := sorted(own & taken):
        raise Broken(f"taken already: {', '.join(clash)}")


@CHECKS.add(
    "write one leaf per length with dataset_kwargs: {ctx_length: N} and N in its name (1k = 1024), "
    "and a group over the leaves; dataset_kwargs begin with ctx_, because model arguments and "
    "metadata reach the same function."
)
def one_length_a_leaf(subject: Subject) -> None:
    """Each leaf has one length, in its name and in its constants, which begin with ctx_."""
    seen: dict[str, str] = {}
    for name, content in subject.leaves.items():
        constants = content.get("dataset_kwargs") or {}
        if bad := [key for key in constants if not key.startswith("ctx_")]:
            raise Broken(f"{name}: dataset_kwargs {', '.join(bad)} do not begin with ctx_")
        if any(isinstance(value, list) for key, value in constants.items() if "length" in key):
            raise Broken(f"{name} has several lengths")
        length, said = length_of(content), _LENGTH.findall(name)
        if length is not None and length not in [parse_length(text) for text in said]:
            raise Broken(f"{name} has ctx_length {length}, which its name does not say")
        shared = [content.get(key) for key in ("custom_dataset", "process_results", "class")]
        other = seen.setdefault(repr((shared, sorted(constants.items()))), name)
        if other != name and constants:
            raise Broken(f"{name} and {other} are the same task")


@CHECKS.add(
    "list the metrics in metric_list, each with aggregation and higher_is_better; `score` for the "
    "main one, never a length."
)
def metric(subject: Subject) -> None:
    """Every leaf names its metrics, how they are averaged, and which way is better."""
    for name, content in subject.leaves.items():
        entries = content.get("metric_list") or []
        if not entries and "class" not in content:
            raise Broken(f"{name} has no metric_list, so lm-eval chooses one by output_type")
        for entry in entries:
            metric_name = str(entry.get("metric"))
            if metric_name.isdigit():
                raise Broken(f"{name}: the metric {metric_name} is a number")
            lacking = [key for key in ("aggregation", "higher_is_better") if key not in entry]
            if lacking:
                raise Broken(f"{name}: metric {metric_name} lacks {', '.join(lacking)}")


@CHECKS.add("write README.md: `# name: what it measures`, paper, source of the data, what differs.")
def readme(subject: Subject) -> None:
    """The folder has a README whose title says what is measured."""
    file = subject.folder / "README.md"
    title = file.read_text(encoding="utf-8").partition("\n")[0] if file.is_file() else ""
    if not re.match(r"# .+: .+", title):
        raise Broken("no README.md" if not title else f"README.md begins with {title!r}")


# ------------------------------------------------------------------- the data


@CHECKS.add("take `**metadata` (or `**kwargs`): lm-eval hands model arguments and metadata on.")
def takes_metadata(subject: Subject) -> None:
    """The function that makes the data takes what lm-eval hands it."""
    for file in subject.files:
        try:
            make = load_task_file(file, functions=True).get("custom_dataset")
        except (ImportError, AttributeError) as error:  # the next check's to tell
            raise NotApplicable(str(error)) from error
        if make is None:
            continue
        kinds = [p.kind for p in inspect.signature(make).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            raise Broken(f"{make.__module__}.{make.__name__} does not take **metadata")


@CHECKS.add(
    "look at what stands after `!function` (a file beside the YAML, or a full dotted path), at the "
    "columns of the data, which doc_to_text, doc_to_choice and doc_to_target name, and at "
    "test_split.",
    basic=True,
)
def builds(subject: Subject) -> None:
    """The shortest leaf is built: data, prompts, targets."""
    name = subject.shortest
    task = subject.build(name)
    docs = list(task.test_docs() or ())
    if not docs:
        raise Broken(f"{name} has no document in test_split")
    for doc in docs:
        if not str(task.doc_to_text(doc)):
            raise Broken(f"{name}: doc_to_text makes an empty prompt")
        if "doc_to_choice" not in subject.leaves[name]:
            continue
        choices, target = task.doc_to_choice(doc), task.doc_to_target(doc)
        if target not in choices and target not in range(len(choices)):
            raise Broken(f"{name}: the target {target!r} is none of the choices {choices!r}")


@CHECKS.add(
    "set generation_kwargs: {until: [...], max_gen_toks: N, do_sample: false} and build prompts of "
    "at most ctx_length - N tokens, counted with metadata's tokenizer."
)
def generation_budget(subject: Subject) -> None:
    """What is generated is bounded, greedy, and fits with the prompt into the length."""
    generating = {
        name: content for name, content in subject.leaves.items()
        if content.get("output_type", "generate_until") == "generate_until"
    }  # fmt: skip
    if not generating:
        raise NotApplicable("nothing is generated")
    for name, content in generating.items():
        given = content.get("generation_kwargs") or {}
        lacking = [key for key in ("until", "max_gen_toks") if key not in given]
        if lacking:
            raise Broken(f"{name}: generation_kwargs lack {', '.join(lacking)}")
        if given.get("do_sample", False):
            raise Broken(f"{name} samples, so two runs differ")
    name = subject.shortest
    length = length_of(subject.leaves[name])
    if name not in generating or length is None:
        return
    from ctxbench.tasks.tokenizer import load_tokenizer

    task, budget = subject.build(name), int(generating[name]["generation_kwargs"]["max_gen_toks"])
    for doc in task.test_docs():
        tokens = len(load_tokenizer("mini")(task.doc_to_text(doc)).input_ids)
        if tokens + budget > length:
            raise Broken(
                f"{name}: {tokens} tokens of prompt and {budget} of answer exceed {length}"
            )


@CHECKS.add("build prompts of at most ctx_length tokens with their longest choice.")
def choices_fit(subject: Subject) -> None:
    """Prompts fit the length together with each choice."""
    name = subject.shortest
    content, length = subject.leaves[name], length_of(subject.leaves[name])
    if content.get("output_type") not in ("multiple_choice", "loglikelihood") or length is None:
        raise NotApplicable("no leaf with a length scores choices")
    from ctxbench.tasks.tokenizer import load_tokenizer

    task = subject.build(name)
    task.build_all_requests(limit=SAMPLES, rank=0, world_size=1)
    tokens = max(len(load_tokenizer("mini")("".join(r.args)).input_ids) for r in task.instances)
    if tokens > length:
        raise Broken(f"{name}: {tokens} tokens of prompt and choice exceed {length}")


@CHECKS.add("draw from random.Random(seed), never from the global generators or hash().")
def deterministic(subject: Subject) -> None:
    """The same seed makes the same prompts, whatever ran before."""
    import numpy as np

    name, made = subject.shortest, []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        task = subject.build(name)
        made.append([task.doc_to_text(doc) for doc in task.test_docs()])
    if made[0] != made[1]:
        raise Broken(f"{name}: prompts differ between two builds")


@CHECKS.add("return from process_results exactly the metrics of metric_list, as numbers.")
def runs(subject: Subject) -> None:
    """The shortest leaf runs in lm_eval and gives each metric it names."""
    import lm_eval

    name = subject.shortest
    subject.build(name)
    evaluate: Any = lm_eval.simple_evaluate  # its decorator hides its parameters
    try:
        results = evaluate(
            model="dummy", tasks=[name], task_manager=subject.manager(), bootstrap_iters=0,
            limit=SAMPLES,
            metadata={"pretrained": "mini", "method": "none", "samples": SAMPLES},
        )  # fmt: skip
    except ValueError as error:
        if "ctxext" in str(error):  # a task that asks what only our model answers says so
            raise NotApplicable(str(error)) from error
        raise
    found = {key.partition(",")[0] for key in results["results"][name]}
    missing = [
        str(entry["metric"]) for entry in subject.leaves[name].get("metric_list") or []
        if str(entry["metric"]) not in found
    ]  # fmt: skip
    if missing:
        raise Broken(f"{name} gave no {', '.join(missing)}")


@cache
def harness_names() -> tuple[str, ...]:
    """Return the names of lm-eval's own tasks, groups and tags, read from its files."""
    return tuple(names_of_tasks())
