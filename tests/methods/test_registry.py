"""Names, options and the record: what is accepted, what is refused and in which words."""

import importlib
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, LlamaConfig

import ctxbench
from ctxbench.core.lengths import parse_length
from ctxbench.methods import registry
from ctxbench.methods.record import KEY, Record, read_record, write_record
from ctxbench.methods.registry import list_presets, method_class, method_summary
from ctxbench.validate.tiny import tiny_model, tokens


def test_listing_needs_no_import():
    names = ctxbench.list_methods()
    assert {"none", "pi", "ntk", "dynamic_ntk", "yarn", "abf", "llama3", "longrope"} <= set(names)
    assert all(method_summary(name) for name in names)


@pytest.mark.parametrize("name", ctxbench.list_methods())
def test_every_method_is_documented(name):
    cls = method_class(name)
    assert cls.name == name
    module = __import__(cls.__module__, fromlist=["x"]).__doc__
    assert "http" in module or "2023" in module, "a method's docstring names its source"
    assert cls.__doc__


@pytest.mark.parametrize("name", list_presets())
def test_presets_make_methods(name):
    preset = list_presets()[name]
    method = ctxbench.get_method(name)
    assert method.name == preset["method"]
    assert method.options().items() >= preset["options"].items()
    assert ctxbench.get_method(name, length="64k").length == 65536


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("yrn", {}, "no method 'yrn'; did you mean yarn"),
        ("pi", {"factr": 2}, "method=pi: 'factr' is not a setting; did you mean factor"),
        ("pi", {"factor": "much"}, "factor='much' is not allowed; it must be a number or nothing"),
        (
            "pi",
            {"length": "32kb"},
            "length='32kb' is not allowed; it must be a number of tokens such as 32768, or 32k",
        ),
        ("pi", {"length": -1}, "length=-1 is not allowed"),
        ("pi", {"length": True}, "length=True is not allowed"),
        ("dynamic_ntk", {"policy": "sticky"}, "'pinned' or 'stateless' or 'hf'"),
        ("dynamic_ntk", {"floor": 1.5}, "floor=1.5"),
        ("yarn", {"dynamic": "perhaps"}, "dynamic='perhaps'"),
    ],
)
def test_bad_names_and_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        ctxbench.get_method(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pi", {}, "neither 'factor' nor 'length'"),
        ("pi", {"factor": 0.5}, "at least 1"),
        ("yarn", {"factor": 4, "dynamic": True}, "would be ignored"),
        ("yarn", {"beta_fast": 1, "beta_slow": 2}, "0 < beta_slow < beta_fast"),
        ("llama3", {"low_freq_factor": 5}, "0 < low_freq_factor < high_freq_factor"),
        ("dynamic_ntk", {"policy": "hf", "floor": 128}, "no floor"),
        ("longrope", {"length": 256}, "needs long_factor"),
        ("longrope", {"length": 256, "long_factor": [1.0, 2.0]}, "has 2 values"),
    ],
)
def test_options_that_make_no_sense_for_a_model(name, options, words):
    with pytest.raises(ValueError, match=words):
        ctxbench.get_method(name, **options).resolve(LlamaConfig(max_position_embeddings=64))


@pytest.mark.parametrize(
    ("text", "tokens"), [(32768, 32768), ("32768", 32768), ("32k", 32768), ("1M", 1048576)]
)
def test_lengths(text, tokens):
    assert parse_length(text) == tokens


@given(st.one_of(st.text(max_size=8), st.integers(), st.floats(), st.none(), st.booleans()))
def test_a_length_is_a_positive_number_or_an_error(value):
    try:
        found = parse_length(value)
    except ValueError as error:
        found, message = None, str(error)
    assert found is None or found > 0
    assert found is not None or "not a length" in message


START = """from dataclasses import dataclass
import ctxbench
from ctxbench.methods.attention import AttentionMethod
from ctxbench.methods.rotary import PositionMethod
from ctxbench.methods.yarn import YaRN as Stretched
data = dataclass(frozen=True, kw_only=True)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write files into a folder of a user's methods."""
    monkeypatch.setattr(registry, "_EXTRA", [tmp_path])
    return lambda text, name="own.py": (tmp_path / name).write_text(START + text)


def test_subclasses_bases_and_several_methods_in_a_file(own):
    own(
        "@data\nclass MyYaRN(Stretched, name='my_yarn'):\n    beta_fast: float = 16.0\n"
        "@data\nclass Other(ctxbench.YaRN, name='other-yarn'):\n    'Another.'\n"
        "class Base(PositionMethod):\n    pass\n"
        "@data\nclass Child(Base, name='child'):\n    pass\n"
    )
    assert set(ctxbench.list_methods()) >= {"my_yarn", "other-yarn", "child", "yarn"}
    assert not {"own", ""} & set(ctxbench.list_methods())
    assert method_summary("other-yarn") == "Another."
    mine = ctxbench.get_method("my_yarn", length="1k")
    assert (mine.name, mine.beta_fast, mine.length) == ("my_yarn", 16.0, 1024)
    assert isinstance(mine, method_class("yarn"))
    assert method_class("yarn").name == "yarn"
    assert method_class("child").__bases__[0].name == ""


def test_a_file_without_names_is_one_method(own):
    own("@data\nclass Mine(PositionMethod):\n    'Mine.'\n", "today.py")
    own(
        "import abc\nclass Base(PositionMethod):\n    pass\n@data\nclass Mine(Base):\n    pass\n"
        "class Other(abc.ABC, AttentionMethod):\n    pass\n",
        "two.py",
    )
    own("import abc\nclass Base(abc.ABC, PositionMethod):\n    pass\n", "bases.py")
    assert method_class("today").name == "today"
    assert method_class("two").__name__ == "Mine"
    assert "bases" not in ctxbench.list_methods()


def test_listing_runs_no_file(own):
    own("raise SystemExit\nclass A(Stretched, name='a'): 'It waits.'\n")
    assert "a" in ctxbench.list_methods()
    assert method_summary("a") == "It waits."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "@data\nclass A(Stretched, name='yarn'): ...",
            r"twice: .*yarn.py, line \d+, and .*own.py, line 8",
        ),
        (
            "class A(Stretched, name='a'): ...\nclass B(Stretched, name='a'): ...",
            "line 7, and .* line 8",
        ),
        ("N = 'a'\nclass A(Stretched, name=N): ...", "line 8: name=N is not a text in quotes"),
        ("class A(Stretched, name='a+b'): ...", r"line 7: name='a\+b' is no name of a method"),
        ("class A(Stretched, name='Big'): ...", "is no name of a method"),
        ("class A(Stretched, name=''): ...", "is no name of a method"),
        ("class A(Stretched, name=3): ...", "is no name of a method"),
        (
            f"class A(Stretched, name={next(iter(list_presets()))!r}): ...",
            "line 7: a preset is called",
        ),
        ("class A(:", "line 7, is not Python"),
        (
            "class A(PositionMethod): ...\nclass B(AttentionMethod): ...",
            r"own\.py: A \(line 7\) and B \(line 8\) .*class A\(PositionMethod, name=",
        ),
    ],
)
def test_definitions_that_are_refused(own, text, words):
    own(text)
    with pytest.raises(ValueError, match=words):
        ctxbench.get_method("other")  # the methods of other files are found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class A(Stretched, name='a'):\n    beta: int = 1", "own.py, line 7: A is no dataclass"),
        ("1 / 0\n@data\nclass A(Stretched, name='a'): ...", "line 7, cannot be imported: ZeroDiv"),
        ("class A(dict, name='a'):\n    def __init_subclass__(cls, name): ...", "line 7"),
    ],
)
def test_files_that_cannot_be_used(own, text, words):
    own(text)
    with pytest.raises(ValueError, match=words):
        method_class("a")


def test_a_class_made_at_run_time_has_a_fit_name():
    with pytest.raises(ValueError, match="class X: name='a=b'"):
        type("X", (method_class("pi"),), {}, name="a=b")


@dataclass(frozen=True, kw_only=True)
class Halved(ctxbench.PositionMethod, name="halved"):
    """A class of this file, which is in no folder of methods."""

    factor: float = 2.0

    def scaled(self, config, current_length):
        """Return frequencies divided by the factor."""
        dim, base = ctxbench.rotary_dim(config), ctxbench.rotary_base(config)
        return ctxbench.inverse_frequencies(dim, base) / self.factor, 1.0


def logits(model):
    with torch.no_grad():
        return model(tokens(1, 40)).logits


def test_a_class_and_a_method_are_taken_for_a_name():
    by_name = ctxbench.extend(tiny_model(), "yarn", length=256, beta_fast=16)
    for method, options in [
        (ctxbench.YaRN, {"length": "256", "beta_fast": "16"}),
        (ctxbench.YaRN(length=256, beta_fast=16.0), {}),
        (ctxbench.YaRN(beta_fast=16.0), {"length": 256}),
    ]:
        model = ctxbench.extend(tiny_model(), method, **options)
        assert model.config.to_dict() == by_name.config.to_dict()
        assert logits(model).equal(logits(by_name))
        again = ctxbench.extend(model, method, **options)
        assert again.config.to_dict() == by_name.config.to_dict()
    assert read_record(model.config).method == "yarn"
    with ctxbench.extended(model, ctxbench.YaRN, length=512) as longer:
        assert longer.config.max_position_embeddings == 512
    assert logits(model).equal(logits(by_name))


def test_a_checkpoint_takes_a_class_or_method_and_refuses_a_contradiction():
    model, _ = ctxbench.load_model("mini", ctxbench.PositionInterpolation, length=1024)
    by_name, _ = ctxbench.load_model("mini", "pi", length=1024)
    assert model.config.to_dict() == by_name.config.to_dict()
    words = "given with factor=2.0, and factor=4.0 beside it"
    with pytest.raises(ValueError, match=words):
        ctxbench.load_model("mini", ctxbench.PositionInterpolation(factor=2.0), factor=4)
    with pytest.raises(ValueError, match=r"factor=4\.0, but factor=2\.0"):
        ctxbench.extend(model, ctxbench.PositionInterpolation(factor=2.0))


def test_a_class_of_no_folder_works_in_memory_and_is_saved_once_its_folder_is_known(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(registry, "_EXTRA", [])
    model = ctxbench.extend(tiny_model(), Halved, length=256)
    assert read_record(model.config).method == "halved"
    assert not logits(model).equal(logits(tiny_model()))
    longer = ctxbench.extend(model, Halved(factor=2.0), length=512)
    with pytest.raises(
        ValueError, match=r"class Halved \(method=halved\) is not found by its name"
    ):
        ctxbench.save_model(longer, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "halved_file.py").write_text(
        START + "@data\nclass Halved(PositionMethod, name='halved'): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("halved_file").Halved
    ctxbench.add_method_folder(tmp_path)
    with pytest.raises(ValueError, match="class Halved has the name 'halved' of the method of"):
        ctxbench.extend(tiny_model(), Halved, length=256)
    saved = ctxbench.save_model(
        ctxbench.extend(tiny_model(), own, length=256), None, tmp_path / "a"
    )
    assert read_record(AutoConfig.from_pretrained(saved)).method == "halved"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict, "method=dict is no class of a method"),
        (ctxbench.PositionMethod, "class PositionMethod has no name"),
        (type("Bare", (ctxbench.YaRN,), {}, name="bare"), "class Bare is no dataclass"),
        (
            dataclass(frozen=True)(type("Mine", (ctxbench.YaRN,), {}, name="yarn")),
            "name 'yarn' of the method",
        ),
    ],
)
def test_classes_that_are_no_method(given, words):
    with pytest.raises(ValueError, match=words):
        ctxbench.extend(tiny_model(), given, length=256)


DAMAGED = [
    "text",
    {},
    {"method": "pi"},
    {"method": 3, "options": {}, "original_length": 64},
    {"method": "pi", "options": [], "original_length": 64},
    {"method": "pi", "options": {}, "original_length": 0},
    {"method": "pi", "options": {}, "original_length": True},
    {"method": "pi", "options": {}, "original_length": 64, "surprise": 1},
    {"method": "pi", "options": {}, "original_length": 64, "trained_length": "x"},
]


@pytest.mark.parametrize("raw", DAMAGED)
def test_a_damaged_record_is_named(raw):
    config = LlamaConfig()
    setattr(config, KEY, raw)
    with pytest.raises(ValueError, match="damaged ctxbench record"):
        read_record(config)


def test_a_newer_record_is_not_guessed_at():
    config = LlamaConfig()
    setattr(config, KEY, {"method": "pi", "options": {}, "original_length": 64, "version": 99})
    with pytest.raises(ValueError, match="Install a newer ctxbench"):
        read_record(config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
RECORD_KEYS = ["method", "options", "original_length", "trained_length", "version", "x"]


@given(st.dictionaries(st.sampled_from(RECORD_KEYS), JSON))
def test_any_record_is_read_or_refused_plainly(raw):
    config = LlamaConfig()
    setattr(config, KEY, raw)
    message = ""
    try:
        found = read_record(config)
    except ValueError as error:
        found, message = None, str(error)
    assert isinstance(found, Record) or "ctxbench record" in message


def test_a_record_survives_saving(tmp_path):
    config = LlamaConfig()
    record = Record(method="pi", options={"factor": 8.0}, original_length=4096)
    write_record(config, record)
    config.save_pretrained(tmp_path)
    assert read_record(LlamaConfig.from_pretrained(tmp_path)) == record
