"""`ctxbench validate`: the examples pass, and each promise broken is found by the check of it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctxbench import listing
from ctxbench.cli import main
from ctxbench.methods import registry
from ctxbench.validate import cli, method_requests, task_checks
from ctxbench.validate.checks import (
    FAILED,
    NOT_APPLICABLE,
    PASSED,
    Check,
    report,
    run_check,
    run_checks,
)

ROOT = Path(__file__).resolve().parents[2]
METHOD, TASK = ROOT / "examples" / "my_method.py", ROOT / "examples" / "my_task"


@pytest.fixture
def own_folders(monkeypatch):
    """Method folders added in a test are forgotten after it."""
    monkeypatch.setattr(registry, "_EXTRA", [])


# ------------------------------------------------------------------- methods

FOLLOWS_LENGTH = "    length_dependent = True\n"
BY_LENGTH = ("/= self.factor", "/= self.factor * current_length / 64")
BROKEN = {
    "documented": [("(https://arxiv.org/abs/2309.00071)", "")],
    "documented-option": [("        factor: s;", "        It divides;")],
    "options": [("@dataclass(frozen=True, kw_only=True)", "@dataclass(frozen=True)")],
    "options-json": [("    factor: float", "    x: set = ()\n    factor: float")],
    "frequencies": [("def scaled", "def scled")],
    "frequencies-one": [("return theta, 1.0", "return theta")],
    "frequencies-shape": [("return theta, 1.0", "return theta[1:], 1.0")],
    "frequencies-dtype": [("return theta, 1.0", "return theta.float(), 1.0")],
    "config": ["def edit_config(self, config):\n        pass"],
    "config-record": [("return theta, 1.0", "return theta / config.max_position_embeddings, 1.0"),
                      "def frequencies(self, config, length):\n"
                      "        return self.resolve(config).scaled(config, length)"],
    "extends": [("/= self.factor", "/= 1.0")],
    "identity": [("/= self.factor", "/= self.factor + 0.1")],
    "save_load": ["def plain_checkpoint(self, config):\n        return True"],
    "save_load-state": ["def edit_model(self, model):\n        super().edit_model(model)\n"
                        "        model.lm_head.weight.data *= 2"],
    "release": ["def edit_model(self, model):\n        super().edit_model(model)\n"
                "        model.lm_head.weight.data *= 2"],
    "runs_at_length": [("return theta, 1.0", "return theta * float('nan'), 1.0")],
    "cached": [BY_LENGTH, "def begin_request(self, model, lengths):\n"
               "        from contextlib import nullcontext\n        return nullcontext()"],
    "batch": [BY_LENGTH, FOLLOWS_LENGTH, "def begin_request(self, model, lengths):\n"
              "        return super().begin_request(model, [max(lengths)] * len(lengths))"],
    "stateless": [("theta = ", "SEEN.append(current_length)\n        theta = "),
                  ("/= self.factor", "/= self.factor * max(SEEN)"),
                  ("@dataclass", "SEEN = []\n\n\n@dataclass"), FOLLOWS_LENGTH],
    "reuse_key": [BY_LENGTH, FOLLOWS_LENGTH,
                  "def reuse_key(self, config, length):\n        return 0"],
    "edit_batch": ["def edit_batch(self, batch, generator):\n        import torch\n"
                   "        return {**batch, 'noise': torch.rand(2)}"],
    "edit_batch-in-place": ["def edit_batch(self, batch, generator):\n"
                            "        batch['labels'] += 1\n        return batch"],
    "trains": ["def trainable(self, model):\n        return model.requires_grad_(False)"],
}  # fmt: skip
"""Check broken -> replacements in the example, and methods added to its class."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_is_found(name, tmp_path, own_folders):
    text = METHOD.read_text()
    for change in BROKEN[name]:
        if isinstance(change, str):
            text += change if change.startswith("    ") else f"\n    {change}\n"
        else:
            assert change[0] in text
            text = text.replace(*change)
    file = tmp_path / f"broken_{name.replace('-', '_')}.py"
    file.write_text(text.replace(', name="my_method"', ""))  # then the file's name is the method's
    checks, subject = cli.find(str(file), {}, "llama")
    outcome = run_check(checks[name.partition("-")[0]], subject)
    assert outcome.status == FAILED
    assert outcome.detail


def test_a_declared_control_may_change_nothing(tmp_path, own_folders):
    control = tmp_path / "control.py"
    control.write_text(
        '"""A control (2026)."""\nfrom dataclasses import dataclass\nimport ctxbench\n\n\n'
        "@dataclass(frozen=True, kw_only=True)\n"
        'class Control(ctxbench.NoExtension, name="control"):\n    """As it is."""\n'
    )
    for name in ("none", str(control)):
        checks, subject = cli.find(name, {}, "llama")
        assert run_check(checks["extends"], subject).status == NOT_APPLICABLE


def test_a_class_called_method_is_a_method(tmp_path, own_folders):
    shutil.copy(METHOD, tmp_path)
    registry.add_method_folder(tmp_path)
    assert registry.method_class("my_method").__name__ == "MyMethod"
    assert "rotary" not in registry.list_methods()


TWO = """import ctxbench
from dataclasses import dataclass
from ctxbench.methods.rotary import PositionMethod as Base


class Shared(Base):
    def scaled(self, config, current_length):
        return ctxbench.get_method("pi", factor=2).scaled(config, current_length)


@dataclass(frozen=True, kw_only=True)
class One(Shared, name="one"):
    \"\"\"One (2023).\"\"\"


@dataclass(frozen=True, kw_only=True)
class Two(ctxbench.YaRN, name="two"):
    \"\"\"Two (2023).\"\"\"
"""


def test_every_method_of_a_file_is_validated(tmp_path, own_folders, capsys):
    file = tmp_path / "several.py"
    file.write_text('"""Several methods, 2023."""\n\n' + TWO)
    assert main(["validate", f"{file}"]) == 0
    printed = capsys.readouterr().out
    assert [line.split("(")[0] for line in printed.splitlines() if line.startswith("method ")] == [
        "method one",
        "method two",
    ]
    assert cli.subjects(f"{file}:two") == ["two"]
    with pytest.raises(ValueError, match="no method 'tow'; did you mean two"):
        cli.subjects(f"{file}:tow")


# --------------------------------------------------------------------- tasks

BROKEN_TASKS = {
    "schema": ("my_recall_256.yaml", "test_split:", "tset_split:"),
    "names": ("my_recall_256.yaml", "task: my_recall_256", "task: hellaswag"),
    "one_length_a_leaf": ("my_recall_256.yaml", "ctx_length: 256", "ctx_length: 128"),
    "one_length_a_leaf-prefix": ("my_recall_256.yaml", "{ctx_length", "{length: 1, ctx_length"),
    "metric": ("my_recall_256.yaml", "metric: score", "metric: 256"),
    "generation_budget": ("my_recall_256.yaml", "max_gen_toks: 8", "max_gen_toks: 80"),
    "generation_budget-none": ("my_recall_256.yaml", ", max_gen_toks: 8", ""),
    "takes_metadata": ("dataset.py", ", **metadata):", "):"),
    "deterministic": ("dataset.py", "random.Random(seed)", "random"),
    "runs": ("dataset.py", '"score"', '"mark"'),
    "readme": ("README.md", "# my_recall: ", "# "),
}


@pytest.mark.parametrize("name", BROKEN_TASKS)
def test_a_broken_task_is_found(name, tmp_path):
    folder = tmp_path / "my_task"
    shutil.copytree(TASK, folder)
    file, old, new = BROKEN_TASKS[name]
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    checks, subject = cli.find(str(folder), {}, "llama")
    outcome = run_check(checks[name.partition("-")[0]], subject)
    assert outcome.status == FAILED, outcome


CHOICES = """output_type: multiple_choice
doc_to_choice: [" 0001", " 0002"]
doc_to_target: "{{0}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


def choice_task(folder: Path, old: str = "", new: str = "") -> Path:
    """Make the example a task of choices, with one replacement in its leaf or its dataset.py."""
    shutil.copytree(TASK, folder)
    leaf = folder / "my_recall_256.yaml"
    leaf.write_text(
        leaf.read_text().partition("output_type")[0] + "doc_to_text: '{{prompt}}'\n" + CHOICES
    )
    file = leaf if old in leaf.read_text() else folder / "dataset.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return folder


@pytest.mark.parametrize(
    ("old", "new", "check", "words"),
    [
        (
            "ctx_length - 8",
            "ctx_length + 40",
            "choices_fit",
            r"tokens of prompt and choice exceed 256",
        ),
        ("{{0}}", "answr", "builds", r"the target 'answr' is none of the choices"),
        ("{{prompt}}", "{{prompts}}", "builds", r"'prompts' is undefined"),
        ("dataset.documents", "datasett.documents", "builds", r"Cannot import module 'datasett'"),
        ('"test":', '"tset":', "builds", "KeyError: 'test'"),
    ],
)
def test_a_broken_task_of_choices_is_found(old, new, check, words, tmp_path):
    folder = choice_task(tmp_path / "my_task", old, new)
    checks, subject = cli.find(str(folder), {}, "llama")
    failed = [o for o in run_checks(checks, subject) if o.status == FAILED]
    assert [outcome.check.name for outcome in failed] == [check]
    assert re.search(words, failed[0].detail)


def test_a_task_of_choices_passes(tmp_path):
    checks, subject = cli.find(str(choice_task(tmp_path / "my_task")), {}, "llama")
    assert [o for o in run_checks(checks, subject) if o.status == FAILED] == []


@pytest.mark.parametrize("check", task_checks.CHECKS)
def test_the_example_task_passes(check):
    outcome = run_check(task_checks.CHECKS[check], task_checks.Subject(TASK))
    expected = NOT_APPLICABLE if check == "choices_fit" else PASSED
    assert outcome.status == expected, outcome.detail


@pytest.mark.slow
@pytest.mark.parametrize("family", listing.task_names())
def test_our_task_families_pass(family):
    checks, subject = cli.find(family, {}, "llama")
    outcomes = {name: run_check(check, subject) for name, check in checks.items()}
    assert [o for o in outcomes.values() if o.status == FAILED] == []


# -------------------------------------------------------------- what it says


def test_every_check_says_what_it_checks_and_what_to_do():
    for check in [*method_requests.CHECKS.values(), *task_checks.CHECKS.values()]:
        assert check.promise.endswith(".")
        assert check.remedy.endswith(".")


def test_what_nothing_works_without_is_told_alone(tmp_path, own_folders, capsys):
    file = tmp_path / "broken.py"
    file.write_text(METHOD.read_text().replace("return theta, 1.0", "return theta[1:], 1.0"))
    assert main(["validate", str(file)]) == 1
    shown = capsys.readouterr().out
    assert "frequencies [7] at length 32; the model has 8 pairs" in shown
    assert shown.count("What to do") == 1
    assert "waits until frequencies is mended" in shown


def test_the_report_is_one_line_each_with_what_to_do():
    def promise(subject):
        """It holds."""
        if subject == "bad":
            raise TypeError("unusable")

    check = Check("promise", promise, "mend it.")
    good, bad = run_check(check, "good"), run_check(check, "bad")
    assert (good.status, bad.status) == (PASSED, FAILED)
    assert "unusable (test_validate.py:" in bad.detail
    lines = report([good, bad]).splitlines()
    assert lines[0].split() == ["passed", "promise", "It", "holds."]
    assert lines[2].strip() == "What to do: mend it."
    assert lines[3] == "1 passed, 1 failed"
    assert NOT_APPLICABLE not in report([good])


def test_the_command(tmp_path):
    (tmp_path / "half.py").write_text(METHOD.read_text().replace("/= self.factor", "/= 2"))
    run = [sys.executable, "-m", "ctxbench.cli", "validate"]
    good = subprocess.run([*run, str(METHOD)], capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.splitlines()[-1] == "15 passed, 0 failed"
    bad = subprocess.run([*run, str(tmp_path / "half.py")], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "factor=1 against the base model: logits differ by" in bad.stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"""Divide', '""Divide', r"broken\.py, line \d+, is not Python"),
        ("method = super()", "method = supper()", r"NameError: .* \(broken\.py:\d+\)"),
        ("import ctxbench", "import ctxbenches", r"broken\.py, line 9, .* ModuleNotFoundError:"),
    ],
)
def test_a_file_that_does_not_begin_is_one_line(old, new, words, tmp_path, own_folders):
    text = METHOD.read_text()
    assert old in text
    (tmp_path / "broken.py").write_text(text.replace(old, new))
    options = cli.argparse.Namespace(
        what=str(tmp_path / "broken.py"), option=[], architecture="llama"
    )
    with pytest.raises(ValueError, match=words):
        cli.run(options)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("yrn", "neither a method nor a task folder; did you mean yarn"),
        ("nowhere.py", "There is no file nowhere.py"),
        (str(ROOT / "ctxbench" / "core" / "assets.py"), "defines no method"),
        (str(ROOT / "train"), "has no task file"),
    ],
)
def test_what_is_not_there_is_said(what, words, own_folders):
    with pytest.raises(ValueError, match=words):
        cli.find(what, {}, "llama")[1].title  # noqa: B018
