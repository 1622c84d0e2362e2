"""The prompt texts of RULER and LongBench, read from the installed lm-eval, with their digests.

They are read from its files: importing its RULER modules costs seconds and a gigabyte (a list of
six million strings). A text that is not the one the benchmark was checked with is an error, because
its results would be those of another benchmark; metadata `templates=unchecked` goes on with it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from ctxbench.core.compat.foreign import ForeignChanged
from ctxbench.core.compat.lm_eval import LM_EVAL
from ctxbench.core.compat.package_text import PackageText

log = logging.getLogger(__name__)

CHOICES = ("checked", "unchecked")
"""Of metadata `templates`."""


@dataclass(frozen=True)
class Template(PackageText):
    """A text in a file of lm-eval.

    Attributes:
        pick: takes it out of the file's text; raises `LookupError` where it is not there.
        what: it is, for messages.
        sha256: of the text that was checked.
    """

    pick: Callable[[str], str]
    what: str
    sha256: str

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.what})"

    def read(self) -> str:
        """Return the text as it is installed.

        Raises:
            ForeignChanged: there is none.
        """
        try:
            return self.pick(super().read())
        except LookupError as error:
            raise self.changed(f"has no {self}") from error

    def find(self) -> str:
        """Return the text, if it is the one that was checked; see `Foreign.find`."""
        text = self.read()
        if digest(text) != self.sha256:
            raise ForeignChanged(
                f"The text {self} of {self.library} {self.library.installed} is not the one that "
                f"was checked (in {self.library.checked}), so results would be those of another "
                f"benchmark. Install a checked version (pip install '{self.library.install}'), or "
                'go on with this one by name: --metadata \'{"templates": "unchecked"}\'.'
            )
        return text


def check_templates(templates: Iterable[Template], choice: str) -> None:
    """Check texts before prompts are made of them.

    Args:
        templates: to check.
        choice: metadata `templates`, of `CHOICES`.

    Raises:
        ForeignChanged: one is gone, or is not the one that was checked.
        ValueError: the choice is none.
    """
    if choice not in CHOICES:
        raise ValueError(
            f"Metadata templates={choice!r} is not allowed; it is one of {', '.join(CHOICES)}. "
            "Mend --metadata."
        )
    for template in templates:
        if choice == "checked":
            template.find()
        elif digest(template.read()) != template.sha256:
            log.warning("%s is not the text that was checked (templates=unchecked).", template)


def digest(text: str) -> str:
    """Return the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------- what is picked


@functools.lru_cache(maxsize=16)
def _nodes(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(source)))


def _constant(name: str, *keys: str) -> Callable[[str], str]:
    """Pick the literal that is assigned to a name, or what it has under the keys."""

    def pick(source: str) -> str:
        for node in _nodes(source):
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == name for target in node.targets
            ):
                found: Any = ast.literal_eval(node.value)
                return functools.reduce(lambda inside, key: inside[key], keys, found)
        raise LookupError(name)

    return pick


def _joined(ending: str) -> Callable[[str], str]:
    """Pick the f-string with this ending, as a format string."""

    def pick(source: str) -> str:
        return _first(text for text in map(_format, _nodes(source)) if text.endswith(ending))

    return pick


def _format(node: ast.AST) -> str:
    if not isinstance(node, ast.JoinedStr):
        return ""
    return "".join(
        f"{{{ast.unparse(part.value)}}}"
        if isinstance(part, ast.FormattedValue)
        else str(ast.literal_eval(part))
        for part in node.values
    )


def _starting(beginning: str) -> Callable[[str], str]:
    """Pick the literal that begins so."""

    def pick(source: str) -> str:
        texts = (str(node.value) for node in _nodes(source) if isinstance(node, ast.Constant))
        return _first(text for text in texts if text.startswith(beginning))

    return pick


def _first(texts: Iterator[str]) -> str:
    for text in texts:
        return text
    raise LookupError


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's task files without importing the functions they name."""


_Loader.add_constructor("!function", lambda loader, node: None)


def _prompt(source: str) -> str:
    """Pick the prompt of a task file, and below it the tokens that may be generated."""
    task = yaml.load(source, _Loader)
    return f"{task['doc_to_text']}\n{task['generation_kwargs']['max_gen_toks']}"


# ------------------------------------------------------------------ the texts


def _ruler(file: str, pick: Callable[[str], str], what: str, sha256: str) -> Template:
    path = f"tasks/ruler/{file}.py"
    return Template(LM_EVAL, "lm_eval", path, "write RULER's prompts", pick, what, sha256)


RULER = {
    "niah template": _ruler(
        "niah_utils", _constant("TEMPLATE"), "niah template",
        "b373c00e238df12bea974d3fdc4ffebcc0f04600885640250040e3c27169216f",
    ),
    "niah prefix": _ruler(
        "prepare_niah", _joined("provided text are"), "niah prefix",
        "b34f1d2c8a60870c839c07c4b2d649d57049da1d1e423edab3507d71059afcc5",
    ),
    "vt template": _ruler(
        "vt_utils", _constant("CONFIG", "variable_tracking", "template"), "vt template",
        "fcfaf2eab2bc3e35a119b13fe42e5902800291c4d6101c60be93ecf8b031fefa",
    ),
    "vt prefix": _ruler(
        "vt_utils", _constant("CONFIG", "variable_tracking", "answer_prefix"), "vt prefix",
        "4652e8514a4f6d88dc2a24ca3198e8b568d7e9ec1c2dafb5bedb60936e947e54",
    ),
    "cwe template": _ruler(
        "cwe_utils", _constant("CONFIG", "template"), "cwe template",
        "45fff5d17627b65ac12c8bf0e60380cbb05966878794a18ec394c2df9bea19b1",
    ),
    "cwe prefix": _ruler(
        "cwe_utils", _constant("CONFIG", "answer_prefix"), "cwe prefix",
        "8ee526599bbc73726f19bb07da106d143a194667cf52e08434c44ce652e08028",
    ),
    "fwe template": _ruler(
        "fwe_utils", _constant("CONFIG", "template"), "fwe template",
        "a0c7b873cf500d6ce65950a91baecd810ce34d151939da916a43fa5014178f9c",
    ),
    "fwe prefix": _ruler(
        "fwe_utils", _constant("CONFIG", "answer_prefix"), "fwe prefix",
        "9a72271c5762c96d9adbf480f21e621c5855e48cc029605c1c422135c4db7a92",
    ),
    "qa template": _ruler(
        "qa_utils", _constant("CONFIG", "template"), "qa template",
        "18a659c9723f24f172004ab1692ae88efaf0c07417b6d7326f813c7169011d28",
    ),
    "qa prefix": _ruler(
        "qa_utils", _constant("CONFIG", "answer_prefix"), "qa prefix",
        "64f89cf423ee1a167e9c8142a340d7aaef3605a56c73d30275fbdd94d098e36c",
    ),
    "needle": _ruler(
        "prepare_niah", _constant("NEEDLE"), "needle",
        "8b1728a938426e426c307f6c79fc57662c827cb42865cd1630410cd7009cf524",
    ),
    "noise": _ruler(
        "prepare_niah", _starting("The grass is green."), "noise",
        "c2fcf70de6081e6fb364c3e5e9a7c0a335a05837a0832ae7a33a1cfe7414bd09",
    ),
    "document": _ruler(
        "qa_utils", _constant("DOCUMENT_PROMPT"), "document",
        "ce8bd2851618becfb57dffd626111f577bb4ba0d18e5704dcedcddd227c66098",
    ),
}  # fmt: skip
"""Each family's template and answer prefix, and what their haystacks are made of."""

_LONGBENCH = {
    "narrativeqa": "ebb535bd56b9ba81fa1ca8b5c6984313673cfdced122ff4dec8f238ebabd3866",
    "qasper": "3bf8e59f6551c59dd79ef0161712738d299519f6f3b8d47a52d59461da4e5350",
    "multifieldqa_en": "bee8fa9dec68cf5040960de11b81de6d968b491e650700b0ac0d500d0e7c83cd",
    "multifieldqa_zh": "b9e9c1a8bf0d1bf37d1e52484c0523fe41f182c3dff32b8cde504f0f4d54668f",
    "hotpotqa": "87bb8209bab5be71119ef0058d0c5a5ae322ab2919242644fd08fa4d46b4e826",
    "2wikimqa": "87bb8209bab5be71119ef0058d0c5a5ae322ab2919242644fd08fa4d46b4e826",
    "musique": "87bb8209bab5be71119ef0058d0c5a5ae322ab2919242644fd08fa4d46b4e826",
    "dureader": "35c91f38cfb0c0d69fc469435dc66e71b756499f5439d053876e049ad8b8266b",
    "gov_report": "707fc48b2a34360c20810cd69e74fee944a2f3a9cc25f536466a4ab332a22e35",
    "qmsum": "bde1620e37b890d560da710465be597a5e34a62135a5ee6edda74ad64f5b2ffe",
    "multi_news": "9a8bb873bfc542d85287da5d55b001f58d6b1baad16bd87dafa0278f6fbf670e",
    "vcsum": "9fb01cfab77f43e2bea0b29573e7ad664f1810d2a95447918ef80380eaca632d",
    "trec": "523c7d0bdf5402d9b126c2250dcd6adc80d21bfd039efc6d6b18588d59120e55",
    "triviaqa": "a59f85c5e7478dfb41ecbc0a15d6b12aa81f7e187382bea5468502ffc667a8cd",
    "samsum": "ecfb989d99a357b2d46ce03c94c7bd058d8b91af12d7556aea6f6598e175cee5",
    "lsht": "bb8dfab02e66981d65d2cba22aa0330be73cc73e3bfbdd7111be29cf9e593fc3",
    "passage_count": "c47e97cf7dfdf7a6713d07d2786f6c36a064125e5275e24e13b443cac61274da",
    "passage_retrieval_en": "0092de8079c638f8a6228a7789f4d883728c0b73fd63984bd969c6442418bbfd",
    "passage_retrieval_zh": "24908aee634481807cd43c9eaa0cce2fb7c727bb4339c7c6732da19b09dee34a",
    "lcc": "fde176144e9275597b2aecc225a902956f879d238fc7f76f6f73a2e92965a3e4",
    "repobench-p": "eeb797c5c77db296ec6b6a44374fb33770ab9e6c62e27943c7c8a369e04421c4",
}

LONGBENCH = {
    name: Template(
        LM_EVAL,
        "lm_eval",
        f"tasks/longbench/{name}.yaml",
        "write LongBench's prompts",
        _prompt,
        "doc_to_text, max_gen_toks",
        sha256,
    )
    for name, sha256 in _LONGBENCH.items()
}
"""The 21 data sets' prompts, and on a line below the tokens that may be generated."""

ENTRIES = (*RULER.values(), *LONGBENCH.values())
