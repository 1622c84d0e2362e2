"""`ctxbench doctor`: is all here that a run needs? No weights are loaded, nothing downloaded."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ctxbench.core.assets import cache_dir, data_dirs, find_data
from ctxbench.core.compat import broken, lm_eval
from ctxbench.core.findings import Finding

TESTED = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "lm_eval": "0.4.13",
    "accelerate": "1.15.0",
    "peft": "0.21.2",
    "datasets": "5.2.0",
}
"""The versions the test suite runs with (constraints.txt); the lowest are the package's own."""


@dataclass(frozen=True)
class Data:
    """Local data of some tasks.

    Attributes:
        tasks: that read it.
        names: of files or folders in a folder of `CTXBENCH_DATA`; one is enough.
        get: where it comes from.
    """

    tasks: str
    names: tuple[str, ...]
    get: str


DATA = (
    Data("mini_*", (), "comes with the package"),
    Data(
        "ruler_*_niah_*, niah_*",
        ("PaulGrahamEssays.json", "paul_graham_essays.parquet"),
        "ctxbench data fetch ruler; niah_* also reads the hub",
    ),
    Data(
        "ruler_*_qa_1", ("squad.json", "dev-v2.0.json"), "ctxbench data fetch ruler",
    ),
    Data(
        "ruler_*_qa_2",
        ("hotpotqa.json", "hotpot_dev_distractor_v1.json"),
        "ctxbench data fetch ruler",
    ),
    Data(
        "ruler_*, niah_* (sentences)",
        ("nltk_data/tokenizers/punkt_tab/english", "punkt_tab/english"),
        "ctxbench data fetch ruler (found where NLTK looks, too)",
    ),
    Data(
        "trec_*",
        ("trec/train_5500.label", "train_5500.label"),
        "ctxbench data fetch trec",
    ),
    Data(
        "longbench_*",
        ("LongBench", "longbench"),
        "read from the hub (zai-org/LongBench), or ahead by ctxbench data fetch longbench",
    ),
    Data(
        "pg19_ppl_*",
        ("pg19_test.bin", "pg19/test.bin", "pg19_test.jsonl", "pg19_test.parquet"),
        "read from the hub (emozilla/pg19), or ahead by ctxbench data fetch pg19_ppl",
    ),
    Data(
        "proof_pile_ppl_*",
        ("proof_pile_test.bin", "proof-pile/test_sampled_data.bin", "proof_pile_test.jsonl",
         "proofpile_test.jsonl.gz"),
        "read from the hub (hoskinson-center/proof-pile), or ahead by "
        "ctxbench data fetch proof_pile_ppl",
    ),
)  # fmt: skip


def add_parser(commands) -> None:
    """Add `doctor` to the command line."""
    doctor = commands.add_parser(
        "doctor", help="check versions, GPU, lm_eval's discovery, data and folders, or a checkpoint"
    )
    doctor.add_argument(
        "model", nargs="?", help="folder, hub id or bundled model: what its files say, instead"
    )
    doctor.add_argument("--trust_remote_code", action="store_true", help="run the model's own code")
    doctor.set_defaults(run=_doctor)


def examine() -> Iterator[Finding]:
    """Yield what is found, in the order of the report."""
    python = platform.python_version()
    yield Finding("ok", "python", f"{python} on {platform.system()} {platform.machine()}")
    for name in TESTED:
        yield check_version(name)
    yield check_device()
    yield check_flash_attention()
    yield check_discovery()
    yield check_foreign()
    yield check_cache()
    yield from map(check_data, DATA)


def check_version(name: str, find: Callable[[str], str] = importlib.metadata.version) -> Finding:
    """Compare an installed version with the lowest allowed and the one tested."""
    lowest = _lowest().get(name, "0")
    try:
        found = find(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("FAIL", name, f"not installed. pip install '{name}>={lowest}'")
    if _parts(found) < _parts(lowest):
        return Finding(
            "FAIL", name, f"{found} is older than {lowest}. pip install -U '{name}>={lowest}'"
        )
    if _parts(found)[:2] > _parts(TESTED[name])[:2]:
        return Finding("note", name, f"{found} is newer than what is tested ({TESTED[name]})")
    return Finding("ok", name, f"{found} (tested: {lowest} and {TESTED[name]})")


def check_device() -> Finding:
    """Look for GPUs that torch can use."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("FAIL", "device", f"torch cannot be imported ({error}). Install it again.")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        return Finding("note", "device", f"no GPU that torch ({built}) can use; runs are on CPUs")
    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(f"{properties.name} with {properties.total_memory / 2**30:.0f} GiB")
    bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16: give dtype=float16"
    return Finding("ok", "device", f"{', '.join(found)}; {bf16}")


def check_flash_attention() -> Finding:
    """Look for flash-attn; everything works without."""
    if importlib.util.find_spec("flash_attn") is None:
        return Finding(
            "note", "flash-attn", "not installed; torch's own kernels are used (pip install "
            "'ctxbench[flash]' with a CUDA toolkit)",
        )  # fmt: skip
    return Finding("ok", "flash-attn", importlib.metadata.version("flash_attn"))


def check_discovery() -> Finding:
    """Ask a fresh interpreter whether lm_eval finds the model and the tasks."""
    if os.environ.get("CTXBENCH_NO_AUTOLOAD") == "1":
        return Finding("note", "discovery", "off (CTXBENCH_NO_AUTOLOAD=1); use `ctxbench lm-eval`")
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [sys.executable, "-c", lm_eval.IS_FOUND], cwd=elsewhere, capture_output=True, text=True
        )
    if "found True" in done.stdout:
        return Finding("ok", "discovery", "`lm_eval --model ctxext` and the tasks are found")
    problem = (done.stderr.strip().splitlines() or ["the start-up file is not read"])[-1]
    return Finding(
        "FAIL", "discovery", f"lm_eval does not find us ({problem}). Install ctxbench with pip "
        "into the environment of lm_eval, or run `ctxbench lm-eval ...`",
    )  # fmt: skip


def check_foreign() -> Finding:
    """Look at what is used of other libraries beyond what they promise."""
    errors = [error for _, error in broken() if error]
    if not errors:
        return Finding("ok", "internals", "what is used inside other libraries is as checked")
    return Finding(
        "FAIL", "internals", f"{errors[0]} {len(errors)} in all: python -m ctxbench.core.compat"
    )


def check_cache() -> Finding:
    """Write a file into the cache folder and remove it."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return Finding(
            "FAIL", "cache", f"{folder} cannot be written ({error.strerror}). Set CTXBENCH_CACHE"
        )
    free = shutil.disk_usage(folder).free / 2**30
    return Finding("ok" if free > 1 else "note", "cache", f"{folder}, {free:.0f} GiB free")


def check_data(data: Data) -> Finding:
    """Look for the data of some tasks."""
    if not data.names:
        return Finding("ok", data.tasks, data.get)
    if found := find_data(*data.names):
        return Finding("ok", data.tasks, str(found))
    return Finding("note", data.tasks, f"no {data.names[0]} here: {data.get}")


def _doctor(options: argparse.Namespace) -> int:
    if options.model:
        from ctxbench.models.examine import examine_model

        found = examine_model(options.model, trust_remote_code=options.trust_remote_code)
        return _report(found)
    status = _report(examine())
    print(f"CTXBENCH_DATA is {os.pathsep.join(map(str, data_dirs())) or 'not set'}.")
    return status


def _report(findings: Iterator[Finding]) -> int:
    """Print findings as they come; return 1 if one must be mended."""
    failed = 0
    for finding in findings:
        failed += finding.mark == "FAIL"
        print(f"{finding.mark:5}{finding.what}: {finding.text}", flush=True)
    print(f"{failed} of these must be mended." if failed else "Ready.")
    return 1 if failed else 0


def _lowest() -> dict[str, str]:
    """Return package -> lowest version allowed, from our own metadata."""
    from packaging.requirements import Requirement

    found = {}
    for text in importlib.metadata.requires("ctxbench") or []:
        requirement = Requirement(text)
        lower = [s.version for s in requirement.specifier if s.operator == ">="]
        if lower and requirement.marker is None:
            found[requirement.name.replace("-", "_")] = lower[0]
    return found


def _parts(version: str) -> tuple[int, ...]:
    from packaging.version import Version

    return Version(version).release
