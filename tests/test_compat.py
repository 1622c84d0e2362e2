"""What is used of other libraries: it is there, its absence says so, and nothing else is used."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import types
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import ctxbench
from ctxbench.core import compat
from ctxbench.core.compat import datasets, foreign, lm_eval, templates, torch, transformers
from ctxbench.core.compat.foreign import Foreign, ForeignChanged, Hook, Library, Mention
from ctxbench.core.compat.package_text import PackageText
from tests import foreign_names

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ctxbench"
ENTRIES = {f"{entry.library} {entry}": entry for entry in compat.entries()}


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_used_is_there(name):
    ENTRIES[name].find()


def stand_in(entry, monkeypatch):
    """Put a module without what is used in the place of the one that has it."""
    if isinstance(entry, PackageText):
        return replace(entry, name=f"not/{entry.name}")
    monkeypatch.setitem(sys.modules, entry.module, types.ModuleType(entry.module))
    return entry


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_gone_is_named_with_what_to_do(name, monkeypatch):
    entry = stand_in(ENTRIES[name], monkeypatch)
    with pytest.raises(ForeignChanged) as error:
        entry.find()
    said = str(error.value)
    library = entry.library
    assert said.startswith(f"{library.package} {library.installed} has no {entry}, which ctxbench")
    assert entry.why in said
    assert f"checked with {library.package} {library.checked}. " in said
    assert f"pip install '{library.install}'" in said


def other(*given, **more):
    """A function of other parameters, which mentions nothing."""


@pytest.mark.parametrize(
    "name", [name for name, entry in ENTRIES.items() if isinstance(entry, Hook | Mention)]
)
def test_what_is_changed_is_named(name, monkeypatch):
    entry = ENTRIES[name]
    inside = other
    for part in reversed(entry.name.split(".")):
        inside = types.SimpleNamespace(**{part: inside})
    monkeypatch.setitem(sys.modules, entry.module, inside)
    with pytest.raises(ForeignChanged, match=r"has|does not use") as error:
        entry.find()
    if isinstance(entry, Hook):
        assert f"(*given, **more) instead of ({entry.parameters})" in str(error.value)
    else:
        assert f"does not use {entry.word} in" in str(error.value)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (datasets.fingerprint, "_fingerprint"),
        (lm_eval.keeps_answers, "dbdict"),
        (torch.times_written, "_version"),
        (transformers.attention_of, "_attn_implementation"),
        (transformers.layer_classes, "_no_split_modules"),
    ],
)
def test_an_object_without_it_is_named(function, name):
    with pytest.raises(ForeignChanged, match=f"gave a SimpleNamespace without {name}, which"):
        function(types.SimpleNamespace())


def test_a_called_function_may_have_more_parameters_an_overridden_one_may_not(monkeypatch):
    library = Library("pytest", "1", "pytest==1")
    hook = Hook(library, "tests.test_compat", "grown", "test", "one")
    monkeypatch.setattr(sys.modules[__name__], "grown", lambda one, more=None: None, raising=False)
    with pytest.raises(ForeignChanged, match=r"grown\(one, more\) instead of \(one\)"):
        hook.find()
    assert replace(hook, more=True).find()
    with pytest.raises(ForeignChanged):  # `on` is no parameter
        replace(hook, parameters="on", more=True).find()


def test_parameters_are_written_as_in_a_signature():
    def function(self, a, b=1, *, c, **d): ...

    assert foreign.parameters(function) == "a, b, *, c, **d"
    assert foreign.parameters(lambda *a, b: None) == "*a, b"


# ------------------------------------------------------------------ what we override


@cache
def our_classes():
    for module in pkgutil.walk_packages(ctxbench.__path__, "ctxbench."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    found = {
        value
        for name, module in list(sys.modules.items())
        if name.startswith("ctxbench.")
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == name
    }
    return sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__))


def overridden(cls):
    """Yield (library, method) that a class of ours overrides in a class of a library."""
    for name, value in vars(cls).items():
        function = getattr(value, "fget", None) or value
        if not inspect.isfunction(function) or function.__module__ != cls.__module__:
            continue
        for base in cls.__mro__[1:]:
            library = base.__module__.partition(".")[0]
            if library in foreign_names.LIBRARIES and name in vars(base):
                yield library, name
                break


MADE_FOR_IT = {"argparse", "torch"}
"""Libraries whose public methods are for overriding: of these only private ones are listed."""


def test_every_foreign_method_that_we_override_is_listed():
    listed = {
        (entry.library.package, entry.name.rpartition(".")[2])
        for entry in compat.entries()
        if isinstance(entry, Hook)
    }
    found = {(*method, cls) for cls in our_classes() for method in overridden(cls)}
    assert ("torch", "_apply") in {method[:2] for method in found}
    lacking = [
        f"{cls.__module__}.{cls.__qualname__}.{name} of {library}"
        for library, name, cls in found
        if (library, name) not in listed
        and name != "__init__"
        and (library not in MADE_FOR_IT or name.startswith("_"))
    ]
    assert lacking == [], "list these in ctxbench/core/compat"


def test_the_model_checks_its_hooks(monkeypatch):
    from ctxbench.models.extended import ExtendedHFLM

    hooks = lm_eval.HFLM_HOOKS
    changed = replace(hooks[0], parameters="pretrained")
    monkeypatch.setattr(lm_eval, "HFLM_HOOKS", (changed, *hooks[1:]))
    lm_eval.check_hooks.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"HFLM\._get_config\(pretrained, \*, revision"):
            ExtendedHFLM("mini")
    finally:
        lm_eval.check_hooks.cache_clear()


def test_a_method_checks_what_it_uses_before_it_is_installed(monkeypatch):
    from ctxbench.validate.tiny import tiny_model

    crop = next(entry for entry in transformers.OF_METHODS if "crop" in entry.name)
    monkeypatch.setattr(transformers, "OF_METHODS", (replace(crop, parameters="max_length"),))
    transformers.check_for_methods.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"crop\(tokens_to_remove\) instead of \(max_length\)"):
            ctxbench.extend(tiny_model("llama"), "none")
    finally:
        transformers.check_for_methods.cache_clear()


def test_lm_eval_with_other_task_managers_is_left_alone(monkeypatch):
    from lm_eval.tasks import manager

    class Manager:
        def __init__(self, folders):
            pass

    original = Manager.__init__
    monkeypatch.setattr(manager, "TaskManager", Manager)
    with pytest.raises(ForeignChanged, match=r"TaskManager\.__init__\(folders\) instead of"):
        lm_eval.include_tasks(manager, Path, lambda name: None)
    assert Manager.__init__ is original


# ------------------------------------------------------------------------ templates

TEXTS = {**{f"ruler {name}": t for name, t in templates.RULER.items()}, **templates.LONGBENCH}


@pytest.mark.parametrize("name", TEXTS)
def test_a_changed_text_is_an_error_unless_unchecked(name, caplog):
    text = TEXTS[name]
    changed = replace(text, pick=lambda source: text.pick(source) + " ")
    with pytest.raises(ForeignChanged, match="is not the one that was checked") as error:
        templates.check_templates([changed], "checked")
    assert str(text) in str(error.value)
    assert '{"templates": "unchecked"}' in str(error.value)
    assert "pip install 'lm_eval==" in str(error.value)
    templates.check_templates([changed], "unchecked")
    assert f"{text} is not the text that was checked" in caplog.text


def test_a_text_that_is_gone_is_an_error_even_unchecked():
    gone = replace(templates.RULER["needle"], pick=templates._constant("NEEDLES"))
    with pytest.raises(ForeignChanged, match=r"has no .*/prepare_niah.py \(needle\), which"):
        templates.check_templates([gone], "unchecked")


def test_an_unknown_choice_lists_those_there_are():
    with pytest.raises(ValueError, match=r"templates='no' is not allowed.*checked, unchecked"):
        templates.check_templates([], "no")


@pytest.fixture
def other_texts(monkeypatch):
    """An lm-eval whose prompts of RULER's variable tracking and LongBench's trec are others."""
    from ctxbench.tasks.longbench import prompts
    from ctxbench.tasks.ruler import dataset
    from ctxbench.tasks.ruler import templates as ruler

    caches = (prompts.load_prompt, ruler.template, dataset._texts_digest, dataset._family)
    for texts, name in ((templates.RULER, "vt template"), (templates.LONGBENCH, "trec")):
        text = texts[name]
        picked = replace(text, pick=lambda source, pick=text.pick: f"Now: {pick(source)}")
        monkeypatch.setitem(texts, name, picked)
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


def test_ruler_goes_on_with_other_texts_by_name_and_records_it(other_texts):
    from lm_eval.tasks import TaskManager

    from ctxbench.tasks.leaf_files import tasks_path

    def build(**metadata):
        given = {"tokenizer": "mini", "samples": 1, **metadata}
        manager = TaskManager(
            include_path=str(tasks_path()), include_defaults=False, metadata=given
        )
        return manager.load(["ruler_4k_vt"])["tasks"]["ruler_4k_vt"]

    with pytest.raises(ValueError, match="vt template"):
        build()
    task = build(templates="unchecked")
    assert task.doc_to_text(next(iter(task.test_docs()))).startswith("Now: Memorize and track")
    assert task.dump_config()["metadata"]["templates"] == "unchecked"


def test_the_choice_is_part_of_the_key_of_cached_samples_only_if_it_is_not_the_default():
    from ctxbench.tasks.ruler.dataset import get_specs

    given = {"tokenizer": "mini", "samples": 1}
    plain = get_specs("vt", 4096, given).key
    assert get_specs("vt", 4096, {**given, "templates": "checked"}).key == plain
    assert "templates" not in plain
    unchecked = get_specs("vt", 4096, {**given, "templates": "unchecked"}).key
    assert unchecked == {**plain, "templates": "unchecked"}


def test_longbench_goes_on_with_another_text_by_name(other_texts):
    from ctxbench.tasks.longbench.prompts import load_prompt

    with pytest.raises(ValueError, match=r"longbench/trec.yaml \(doc_to_text"):
        load_prompt("trec")
    assert load_prompt("trec", "unchecked").template.startswith("Now: Please determine")
    assert load_prompt("lcc").template == load_prompt("lcc", "unchecked").template


# -------------------------------------------------------------------- nothing else


def test_foreign_private_names_are_used_in_compat_alone():
    files = [f for f in sorted(PACKAGE.rglob("*.py")) if "compat" not in f.parts]
    ours = foreign_names.own_names(PACKAGE.rglob("*.py"))
    found = [
        f"{file.relative_to(ROOT)}:{line} {what}"
        for file in files
        for line, what in foreign_names.uses(file.read_text(encoding="utf-8"), ours)
    ]
    assert found == [], "move these to ctxbench/core/compat, with what they are for"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("def f(model): return model.config._attn_implementation", "._attn_implementation"),
        ("self._accelerator_state", "._accelerator_state"),
        ("torch.ops.aten._scaled_dot_product_flash_attention(q)", "._scaled_dot_product"),
        ("part.__getstate__()", ".__getstate__"),
        ("getattr(dataset, '_fingerprint', None)", "'_fingerprint'"),
        ("setattr(model, '_no_split_modules', [])", "'_no_split_modules'"),
        ("from lm_eval.tasks._yaml_loader import load_yaml", "lm_eval.tasks._yaml_loader"),
        ("import transformers._typing", "transformers._typing"),
        ("from argparse import _StoreAction", "argparse._StoreAction"),
        ("import inspect\nfrom lm_eval.models.huggingface import HFLM\n"
         "inspect.signature(HFLM.__init__)", "inspect.signature"),
        ("import inspect\nimport torch\ninspect.getsource(torch.nn.Module)", "inspect.getsource"),
        ("import importlib.resources as r\nr.files('lm_eval.tasks.ruler')", "'lm_eval.tasks."),
        ("import importlib.util\nimportlib.util.find_spec('lm_eval')", "'lm_eval'"),
        ("import torch\ntorch.nn.Module.forward = mine", "assigns torch.nn.Module.forward"),
        ("from transformers import PreTrainedModel as M\nM.generate = mine", "assigns M.generate"),
        ("from lm_eval.api import registry\nsetattr(registry, 'x', 1)", "assigns registry"),
        ("cls.__init__ = mine", "assigns cls.__init__"),
    ],
)  # fmt: skip
def test_the_search_finds(source, what):
    found = [text for _, text in foreign_names.uses(source, own=frozenset())]
    assert any(what in text for text in found), found


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def _own(self): ...\n    def f(self, other): other._own()",
        "def f(model): model._ctxbench_pin.remove()",
        "import torch\nx = torch.nn.Linear(1, 1)\nx.weight = None",
        "import inspect\ninspect.signature(make)",
        "import importlib.util\nimportlib.util.find_spec('flash_attn')",
        "from ctxbench.tasks.sentences import _main",
        "f'{error.__class__.__name__}'",
        "import os\nos._exit(1)",
    ],
)
def test_the_search_leaves_alone(source):
    own = foreign_names.own_names_of(source)
    assert list(foreign_names.uses(source, own)) == []


def test_importing_the_room_loads_no_foreign_library():
    code = (
        "import sys\nfrom ctxbench.core import compat\nlist(compat.entries())\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not foreign_names.LIBRARIES - {"argparse"} & set(done.stdout.split())


def test_doctor_says_what_is_broken(monkeypatch):
    from ctxbench import doctor

    assert doctor.check_foreign().mark == "ok"
    library = Library("torch", "1", "torch==1")
    gone = Foreign(library, "torch", "Gone", "test")
    monkeypatch.setattr(doctor, "broken", lambda: [(gone, gone.changed("has no Gone"))])
    found = doctor.check_foreign()
    assert found.mark == "FAIL"
    assert "has no Gone" in found.text
    assert "1 in all: python -m ctxbench.core.compat" in found.text
