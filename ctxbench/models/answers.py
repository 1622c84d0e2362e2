"""Answers kept on disk, so that a killed evaluation goes on where it was.

A key holds everything an answer depends on: of the model (`CtxExt.fingerprint`: weights, adapters,
config, tokenizer, method, options, window, dtype, attention, versions) in the name of the file, of
the request (tokens, generation settings, stop strings) in each key. Two methods can never share an
answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ctxbench.core.errors import shown
from ctxbench.models.progress import with_progress
from ctxbench.models.requests import GenerationRequest, ScoringRequest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_SINGLE = re.compile(r"answers-[0-9a-f]{24}\.sqlite$")  # as version 0.1.0 named them

Request = TypeVar("Request", ScoringRequest, GenerationRequest)


def weights_hash(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return a hash of names, shapes, dtypes and all bytes of a state dict."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors:
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def config_content(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a config says of the model, without where it lies and what made it."""
    not_the_model = ("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype")
    return {name: v for name, v in config.to_dict().items() if name not in not_the_model}


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what decides how a tokenizer turns texts into tokens and back."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = sorted(tokenizer.get_vocab().items())
    else:  # cutting and padding are of the last call, not of the tokenizer
        rules = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
    return {
        "class": type(tokenizer).__name__,
        "rules": hashlib.blake2b(str(rules).encode(), digest_size=16).hexdigest(),
        "special": tokenizer.special_tokens_map,
        "settings": {
            name: getattr(tokenizer, name, None)
            for name in ("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", "legacy")
        },
        "chat_template": tokenizer.chat_template,
    }


def fingerprint(identity: dict[str, Any]) -> str:
    """Return a short hash of what identifies a model; the same in every process."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


_PATIENCE = 60.0
"""Seconds to wait for other processes that use a file of answers."""


class AnswerCache:
    """Answers of one model in one SQLite file; several processes may write it.

    Args:
        folder: made if needed.
        model: `fingerprint` of the model; the file's name.
    """

    def __init__(self, folder: str | Path, model: str):
        if "\0" in str(folder):
            raise ValueError(
                f"cache={shown(str(folder))} is no name of a folder: it has a null byte. Give "
                "another cache=FOLDER."
            )
        self.file = Path(folder).expanduser() / f"answers-2-{model}.sqlite"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._name_old_ones()
        with self._explained():
            self.database = sqlite3.connect(self.file, timeout=_PATIENCE)
            self._write_ahead()
            self.database.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)"
            )
            self.database.commit()

    def _write_ahead(self) -> None:
        """Set the mode in which several may write; SQLite does not wait for others who do so."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self.database.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    @staticmethod
    def key(kind: str, *parts: Any) -> str:
        """Return the key of a request: its kind and everything it asks."""
        text = json.dumps([kind, *parts], sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()

    def get(self, key: str) -> Any | None:
        """Return the kept answer, None if there is none."""
        with self._explained():
            found = self.database.execute("SELECT answer FROM answers WHERE key = ?", (key,))
            row = found.fetchone()
        return json.loads(row[0]) if row else None

    def put(self, answers: Iterable[tuple[str, Any]]) -> None:
        """Keep answers; when this returns they survive a kill."""
        rows = [(key, json.dumps(answer)) for key, answer in answers]
        with self._explained(), self.database:
            self.database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def _name_old_ones(self) -> None:
        """Say which files are of a version whose keys did not hold all that decides an answer."""
        old = [
            file for file in self.file.parent.glob("answers-*.sqlite") if _SINGLE.match(file.name)
        ]
        if old:
            log.warning(
                "%s hold answers that version 0.1.0 kept. Its keys knew neither the checkpoint's "
                "config and generation settings nor the tokenizer's rules, so they are not used: "
                "answers are computed again. Delete these files.",
                ", ".join(map(str, sorted(old))),
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into one of ours."""
        try:
            yield
        except sqlite3.OperationalError as error:  # full, locked, read-only, no such folder
            raise ValueError(
                f"The answer cache {self.file} cannot be used ({error}). It needs a folder you may "
                "write to, with room. Answers kept so far are whole: make room or change its "
                "permissions, or give another cache=FOLDER, and run the same command again."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"The answer cache {self.file} is damaged ({error}). Delete the file; the answers "
                "in it are computed again."
            ) from error


def answer_all(
    cache: AnswerCache | None,
    requests: Sequence[Request],
    keys: Sequence[str],
    compute: Callable[[list[Request], set[int]], Iterable[tuple[int, Any]]],
    verb: str,
    *,
    show: bool = True,
) -> list[Any]:
    """Return the answers of requests: what the cache holds, the rest computed.

    Each answer is kept before the next is computed: a kill loses at most the batch in work.

    Args:
        cache: None: nothing is kept.
        requests: to answer.
        keys: of the requests; equal ones are computed once.
        compute: yields number and answer of the wanted ones of some requests.
        verb: what is done, shown before the task's name.
        show: whether to show progress.
    """
    kept = {} if cache is None else {key: cache.get(key) for key in set(keys)}
    found = {key: answer for key, answer in kept.items() if answer is not None}
    request_of = dict(zip(keys, requests, strict=True))
    unique, once = list(request_of), list(request_of.values())
    missing = {number for number, key in enumerate(unique) if key not in found}
    computed = compute(once, missing) if missing else ()
    asked = {number: once[number] for number in missing}
    sizes = {number: (each.origin.task or "requests", each.size) for number, each in asked.items()}
    for number, answer in with_progress(computed, sizes, verb, show=show):
        found[unique[number]] = answer
        if cache is not None:
            cache.put([(unique[number], answer)])
    return [found[key] for key in keys]
