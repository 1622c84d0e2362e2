"""Study file -> study: a file over its base, resolved by its recipes, checked.

A study file is YAML. `base: NAME` begins with another study; `rows` and `columns` are mappings by
name, and what a file says goes over its base, key by key. `keep_rows` and `keep_columns` choose
among them. The block `quick` is such a change too, for `--quick`; a base's is not taken where it
and the file both choose.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ctxbench.core.assets import BUNDLED_MODELS, resolve_model
from ctxbench.core.errors import near_names, shown
from ctxbench.core.lengths import length_name
from ctxbench.core.protocol import Column, Row
from ctxbench.core.settings import Length, check_folder_name, check_keys, read_settings
from ctxbench.core.text_files import read_yaml
from ctxbench.methods.registry import get_method
from ctxbench.study.config import BUDGET, Family, Study
from ctxbench.study.own_tasks import check_metric, digest, own_tasks
from ctxbench.tasks.leaf_files import all_leaves, is_task
from ctxbench.train.config import TrainConfig, make_config

FOLDER = Path(__file__).parent / "studies"
_CHOICES = ("keep_rows", "keep_columns")
_CHANGES = ("base", *_CHOICES, "quick")


@dataclass(frozen=True, kw_only=True)
class _File:
    """A study file, merged with its base."""

    title: str
    model: str | None
    rows: dict
    columns: dict
    length: Length | None = None
    model_name: str | None = None
    window: Length | None = None
    train: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()
    untrained: bool = True
    untrained_columns: tuple[str, ...] | None = None
    together: Literal["row", "kind", "column"] = "kind"
    cache: bool = True
    model_args: dict = field(default_factory=dict)
    other_tasks: tuple[str, ...] = ()
    include_path: str | None = None
    shape: dict = field(default_factory=dict)


def list_studies() -> list[str]:
    """Return the names of the shipped studies."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_study(
    name: str, *, quick: bool = False, overrides: Mapping[str, Any] | None = None
) -> Study:
    """Return a study, checked.

    Args:
        name: of a shipped study, or a YAML file.
        quick: with the changes of its block `quick`.
        overrides: keys of the file that the command line sets, such as `model` and `length`.

    Raises:
        FileNotFoundError: no such study.
        ValueError: an unknown key, method, task or recipe, or values that do not go together.
    """
    merged = _read(name)
    changes = merged.pop("quick", None)
    if quick:
        if changes is None:
            raise ValueError(
                f"Study {name} has no block `quick`. Studies with one: "
                f"{', '.join(s for s in list_studies() if 'quick' in _read(s))}. Leave out --quick."
            )
        merged = _over(merged, _mapping({"quick": changes}, "quick", name))
    merged = _keep(_over(merged, dict(overrides or {})))
    where = f"Study {Path(name).stem}"
    file = read_settings(_File, merged, where)
    study = _resolve(file, Path(name).stem + ("-quick" if quick else ""), where)
    for row in study.rows:
        _check_row(study, row, f"{where}, row {row.name}")
    _check_tasks(study, where)
    return study


# ---------------------------------------------------------------- reading files


def _read(name: Any, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the content of a study file over that of its base.

    Args:
        name: of a shipped study, or a YAML file.
        above: the files that are built on it.
    """
    if not isinstance(name, str):
        raise ValueError(
            f"Study {above[-1]}: base={shown(name)} is not allowed; it must be the name of a study "
            "or of a .yaml file. Change it."
        )
    file = Path(name) if Path(name).suffix in (".yaml", ".yml") else FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no study {name!r}{near_names(name, list_studies())} Studies: "
            f"{', '.join(list_studies())}. Give one of these or a .yaml file (copy template.yaml)."
        )
    if (here := str(file.resolve())) in above:
        raise ValueError(
            f"Study {file.name} is built on itself, by way of its base. Let base name another."
        )
    content = read_yaml(file)
    known = [field.name for field in dataclasses.fields(_File)]
    check_keys(content, [*known, *_CHANGES], f"Study {file.name}")
    if "include_path" in content:
        content["include_path"] = _folder(content["include_path"], file)
    if not (base := content.pop("base", None)):
        return content
    built_on = _read(base, (*above, here))
    if any(key in content and key in _mapping(built_on, "quick", name) for key in _CHOICES):
        del built_on["quick"]  # it chooses among rows or columns that may be gone
    return _over(built_on, content)


def _folder(given: Any, file: Path) -> str:
    """Return the folder that a study file names, seen from where the file is.

    Raises:
        ValueError: it is none.
    """
    folder = file.parent / given if isinstance(given, str) else None
    if folder is None or not folder.is_dir():
        raise ValueError(
            f"Study {file.name}: include_path={shown(given)} is not allowed; it must be a folder "
            "of task files, absolute or seen from the study file. Correct it."
        )
    return str(folder.resolve())


def _over(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with a change over it: mappings by key, notes added, the rest replaced."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            result[key] = _over(old, value)
        elif key == "notes" and old:
            result[key] = [*old, *(value if isinstance(value, list | tuple) else [value])]
        else:
            result[key] = value
    return _keep(result)


def _mapping(content: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    """Return what stands under a key.

    Raises:
        ValueError: it is no mapping.
    """
    found = content.get(key) or {}
    if not isinstance(found, Mapping):
        raise ValueError(
            f"Study {Path(name).name}: {key}={shown(found)} is not allowed; it must be a mapping. "
            "Write `key: value` lines, or leave it out."
        )
    return found


def _keep(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content after `keep_rows` and `keep_columns`."""
    for key, what in (("keep_rows", "rows"), ("keep_columns", "columns")):
        if (names := content.pop(key, None)) is not None:
            there = _mapping(content, what, "file")
            if not isinstance(names, list | tuple):
                raise ValueError(
                    f"{key}={shown(names)} is not allowed; it must be a list of names. Change it."
                )
            for name in names:
                if name not in there:
                    raise ValueError(
                        f"{key} names {shown(name)}{near_names(str(name), there)} There are: "
                        f"{', '.join(map(str, there))}. Rename it or leave it out."
                    )
            content[what] = {name: there[name] for name in names}
    return content


# ------------------------------------------------------------------- resolving


def _resolve(file: _File, name: str, where: str) -> Study:
    if not file.model:
        raise ValueError(f"{where} names no model. It works with any. Add --model PATH_OR_ID.")
    columns = [
        column
        for family, given in file.columns.items()
        for column in _columns(family, read_settings(Family, given, f"{where}, columns {family}"))
    ]
    rows: list[Row] = []
    for key in file.columns:
        check_folder_name(key, f"{where}, columns")
    for key, given in file.rows.items():
        at = f"{where}, row {key}"
        named = {"name": key, **given} if isinstance(given, Mapping) else given
        row = read_settings(Row, named, at)
        rows.append(_trained(row, file, at) if row.train is not None else _untrained(row))
    controls = [
        dataclasses.replace(
            _untrained(row),
            name=f"{row.name}-untrained",
            label=f"{row.label} untrained",
            group="control",
            train=None,
            own_budget=None,
            trained_length=None,
            kinds=file.untrained_columns,
        )
        for row in rows
        if row.train is not None and row.untrained and file.untrained and row.group != "control"
    ]
    window = file.window or _window(file.model)
    longest = max((column.length or 0 for column in columns), default=0)
    model = file.model
    same = ("title", "train", "seeds", "notes", "together", "cache", "model_args")
    same = (*same, "other_tasks", "include_path")
    return Study(
        name=name,
        model=model,
        model_name=file.model_name or (model if model in BUNDLED_MODELS else Path(model).name),
        window=window,
        length=file.length or max(longest, window),
        budget=_budget(file) if any(row.train is not None for row in rows) else {},
        rows=(*rows, *controls),
        columns=tuple(columns),
        shape=file.shape,
        task_files=digest(file.include_path),
        **{field: getattr(file, field) for field in same},
    )


def _budget(file: _File) -> dict[str, Any]:
    config = _config(file, {})
    return {
        "name": file.train.get("recipe") or "defaults",
        **{name: getattr(config, name) for name in BUDGET},
    }


def _untrained(row: Row) -> Row:
    return dataclasses.replace(row, seeds=(None,))


def _trained(row: Row, file: _File, where: str) -> Row:
    """Return the row with what its recipe says: method, options, length.

    Raises:
        ValueError: its training is not the common one and it does not say why.
    """
    assert row.train is not None
    own: dict[str, Any] = {} if row.method is None else {"method": row.method}
    own |= {"options": row.options} if row.options else {}
    try:
        common = _config(file, {})
        config = _config(file, {**row.train, **own})
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{where}: {error}") from error
    different = [name for name in BUDGET if getattr(config, name) != getattr(common, name)]
    if different and not row.own_budget:
        raise ValueError(
            f"{where} trains with another {', '.join(different)} than the common budget. Such a "
            "row says why with own_budget, which the report shows. Add it or leave the change out."
        )
    return dataclasses.replace(
        row,
        method=config.method,
        options=config.options,
        trained_length=config.length,
        seeds=file.seeds if row.seeds == (None,) else row.seeds,
    )


def _config(file: _File, own: Mapping[str, Any]) -> TrainConfig:
    values = {"model": file.model, **file.train, **own, "output": "x"}
    return make_config(values.pop("recipe", None), values)


def _columns(name: str, family: Family) -> list[Column]:
    points: list[tuple[str, int | None, int | None]] = [
        *((length_name(length), length, None) for length in family.lengths if not family.shots),
        *((f"{shots}shot", None, shots) for shots in family.shots),
    ]
    if family.shots and family.lengths:
        points = [(f"{shots}shot", family.lengths[0], shots) for shots in family.shots]
    many = len(points) > 1 or "{" in family.task
    return [
        Column(
            name=f"{name}_{suffix}" if many else name,
            kind=family.kind,
            length=length,
            shots=shots,
            tasks=tuple(_task(name, family, suffix, shots).replace(" ", "").split(",")),
            metric=family.metric,
            higher_is_better=family.higher_is_better,
            chance=family.chance,
            metadata=family.metadata,
            documents=_at(family.documents, suffix),
            requests=_at(family.requests, suffix) or 0,
            needs=family.needs,
        )
        for suffix, length, shots in points or [("", None, None)]
    ]


def _task(name: str, family: Family, suffix: str, shots: int | None) -> str:
    try:
        return family.task.format(length=suffix, shots=shots)
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Columns {name}: task={shown(family.task)} has a placeholder that is none; allowed "
            "are {length} and {shots}. Correct it."
        ) from error


def _at(value: Any, suffix: str) -> Any:
    """Return a value that may be given per length or shots (`4k: 10`)."""
    return {str(k): v for k, v in value.items()}.get(suffix) if isinstance(value, dict) else value


def _window(model: str) -> int:
    config = Path(resolve_model(model)) / "config.json"
    if not config.is_file():
        raise ValueError(
            f"The window of {model} is not known before it is loaded. Study files state it. Add "
            "`window: 4096` (or --window 4096)."
        )
    return int(json.loads(config.read_text(encoding="utf-8"))["max_position_embeddings"])


# -------------------------------------------------------------------- checking


def _check_row(study: Study, row: Row, where: str) -> None:
    try:
        get_method(row.method or "none", **(row.options if row.method else {}))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if row.train is not None and row.checkpoint:
        raise ValueError(
            f"{where} has both train and checkpoint. A row is trained here or published. Leave "
            "out one."
        )
    checkpoint = {} if row.checkpoint is None else {"checkpoint": row.checkpoint}
    _check_arguments({"model": study.model, **checkpoint}, ",=", where)
    _check_arguments({**study.model_args, **row.model_args, **row.options}, ",", where)
    kinds = {column.kind for column in study.columns}
    check_keys(row.kinds or (), kinds, f"{where}, columns")


def _check_arguments(values: Mapping[str, Any], separators: str, where: str) -> None:
    """Refuse what would end one model argument and begin another.

    Raises:
        ValueError: a value, or a name, has a separator.
    """
    for name, value in values.items():
        if any(mark in f"{name}{value}" for mark in separators):
            raise ValueError(
                f"{where}: {name}={shown(value)} is not allowed: in lm_eval's model arguments "
                f"{' and '.join(map(repr, separators))} would begin another argument. Rename the "
                "folder, or give the arguments one by one in model_args."
            )


def _check_tasks(study: Study, where: str) -> None:
    own = own_tasks(study.include_path)
    for column in study.columns:
        at = f"{where}, column {column.name}"
        for task in column.tasks:
            if task in own:
                check_metric(column.metric, task, own[task], at)
            elif task not in study.other_tasks and not is_task(task):
                raise ValueError(
                    f"{at}: there is no task {task!r}{near_names(task, [*_task_names(), *own])} "
                    "Tasks: `ctxbench ls tasks`. Correct it, name a task of lm-eval's own under "
                    "other_tasks, or the folder of your own in include_path."
                )
    names = [column.name for column in study.columns]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{where}: two columns are called {', '.join(twice)}. Rename a family.")


def _task_names() -> list[str]:
    return [name for leaves in all_leaves().values() for name in leaves]
