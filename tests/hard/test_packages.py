"""Wheel and sdist hold what they should and nothing else; the sdist makes the same wheel."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ctxbench import __version__

ROOT = Path(__file__).resolve().parents[2]
SDIST = {
    *("ctxbench", "train", "results", "tests", "benchmarks", "docs", "examples"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "constraints.txt"),
    *("ctxbench_autoload.pth", "ctxbench_autoload.start"),
    *("pyproject.toml", "PKG-INFO", ".gitignore"),  # the build backend's own
}
NEVER = (".pyc", ".log", ".sqlite", ".tmp", ".partial")


def build(where: Path, kind: str, source: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "build", f"--{kind}", "-o", str(where), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = where.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return found


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_wheel_and_sdist_hold_what_they_should(tmp_path):
    pytest.importorskip("build", reason="needs the package build (extra dev)")
    wheel = content(build(tmp_path / "wheel", "wheel", ROOT))
    info = f"ctxbench-{__version__}.dist-info"
    assert {name.partition("/")[0] for name in wheel} == {
        *("ctxbench", info, "ctxbench_autoload.pth", "ctxbench_autoload.start")
    }
    for name in (
        *("_assets/mini/model.safetensors", "_train/recipes/mini.yaml", "_train/rows.yaml"),
        *("_train/accelerate", "_paper", "tasks/ruler", "study/studies/mini.yaml"),
    ):
        assert any(found.startswith(f"ctxbench/{name}") for found in wheel), name
    assert sum(map(len, wheel.values())) < 8e6
    sdist = build(tmp_path / "sdist", "sdist", ROOT)
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert {name.split("/")[1] for name in names if "/" in name} == SDIST
    for name in (*wheel, *names):
        assert not name.endswith(NEVER), name
        assert "__pycache__" not in name, name
    (source,) = tmp_path.glob("ctxbench-*")
    again = content(build(tmp_path / "again", "wheel", source))
    assert again == wheel
