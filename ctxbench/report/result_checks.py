"""The shape of what a results file and a sample hold, looked at before anything reads them."""

from collections.abc import Callable, Iterable
from typing import Any

from ctxbench.core.errors import shown

Check = Callable[[Any], bool]


def _is(*kinds: type) -> Check:
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool)


def _every(value: Any, check: Check) -> bool:
    """Whether a value is a mapping by text, all values of which pass a check."""
    return isinstance(value, dict) and all(check(each) for each in value.values())


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


_RESULTS: dict[str, tuple[str, Check]] = {
    "results": ("a mapping of mappings", lambda value: _every(value, _mapping)),
    "group_subtasks": ("a mapping of lists of names", lambda value: _every(value, _texts)),
    "configs": ("a mapping of mappings", lambda value: _every(value, _mapping)),
    "config": ("a mapping", _mapping),
    "model_name": ("text", _is(str)),
}
_OURS: dict[str, tuple[str, Check]] = {
    "method": ("text", _is(str)),
    "options": ("a mapping", _mapping),
    "trained_length": ("a whole number above 0", lambda value: _is(int)(value) and value > 0),
    "original_length": ("a whole number above 0", lambda value: _is(int)(value) and value > 0),
}
_SAMPLE: dict[str, tuple[str, Check]] = {
    "doc_id": ("a number or text", _is(int, str)),
    "doc": ("a mapping", _mapping),
    "metrics": ("a list of names", _texts),
    "filter": ("text", _is(str)),
}


def check_results(content: Any) -> dict[str, Any]:
    """Return the content of a results file, or raise for what cannot be one.

    Raises:
        ValueError: what is wrong, without the file's name.
    """
    if not isinstance(content, dict) or "results" not in content:
        raise ValueError("it is no mapping with results")
    _check(content, _RESULTS)
    _check((content.get("config") or {}).get("ctxbench"), _OURS, "ctxbench's ")
    for task, found in content["results"].items():
        _check(found, {"sample_len": ("a whole number", _is(int))}, f"{shown(task)}'s ")
    for task, found in (content.get("configs") or {}).items():
        _check(found, {"metadata": ("a mapping", _mapping)}, f"{shown(task)}'s ")
    return content


def check_samples(samples: Iterable[Any]) -> list[dict[str, Any]]:
    """Return samples, or raise for one that cannot be one.

    Raises:
        ValueError: what is wrong, without the file's name.
    """
    found = list(samples)
    for number, sample in enumerate(found, 1):
        if not isinstance(sample, dict):
            raise ValueError(f"sample {number} is {shown(sample)}, no mapping")
        _check(sample, _SAMPLE, f"sample {number}: ")
    return found


def _check(found: Any, wanted: dict[str, tuple[str, Check]], whose: str = "") -> None:
    if found is None:
        return
    if not isinstance(found, dict):
        raise ValueError(f"{whose.strip(': ')} is {shown(found)}, no mapping")
    for name, (what, check) in wanted.items():
        if (value := found.get(name)) is not None and not check(value):
            raise ValueError(f"{whose}{name} is {shown(value)}, not {what}")
