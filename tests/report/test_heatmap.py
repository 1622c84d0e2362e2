"""Heat maps from result files: the right cells, the line at the right place, nothing else read."""

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ctxbench.core.lengths import length_name, task_family
from ctxbench.report import cli, heatmap
from ctxbench.report.result_files import SamplesFile, find_runs

ROOT = Path(__file__).resolve().parents[2]
GRID = ROOT / "results" / "mini_needle_grid"


def write_run(folder, day, method, scores, trained=None, metric="score", **arguments):
    """Write files as lm-eval does; scores: {task: {(length, depth): [scores]}}."""
    folder.mkdir(exist_ok=True)
    date = f"2026-01-{day:02d}T00-00-00.000000"
    ours = {"method": method, "options": {"factor": 2.0}, "original_length": 256}
    config = {
        "model": "ctxext",
        "model_args": {"pretrained": "x/small", "method": method, "length": 4096, **arguments},
        "ctxbench": {**ours, "trained_length": trained},
    }
    content = {"results": {}, "config": config, "pretty_env_info": "a machine"}
    (folder / f"results_{date}.json").write_text(json.dumps(content))
    for task, cells in scores.items():
        lines = [
            {
                "doc_id": number,
                "doc": {"length": length, "depth": depth, "prompt": "long " * 100},
                "arguments": {"gen_args_0": {"arg_0": "long " * 100}},
                "resps": [["a"]],
                "filtered_resps": ["a"],
                "metrics": [metric],
                metric: score,
            }
            for (length, depth), values in cells.items()
            for number, score in enumerate(values)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"samples_{task}_{date}.jsonl").write_text(text)


def grid(length, *columns):
    """Return cells of one length: scores by depth 0, 0.5, 1."""
    return {(length, depth): scores for depth, scores in zip((0.0, 0.5, 1.0), columns, strict=True)}


@pytest.fixture
def results(tmp_path):
    write_run(
        tmp_path,
        1,
        "none",
        {
            "niah_1k": grid(1024, [1, 1], [0, 1], [0, 0]),
            "niah_2k": grid(2048, [0, 0], [0, 0], [0, 0]),
            "mini_ppl_1k": {(1024, None): [3.0]},
        },
    )
    write_run(
        tmp_path,
        2,
        "pi",
        {"niah_1k": grid(1024, [1], [1], [1]), "niah_2k": grid(2048, [1], [0], [1])},
        trained=1024,
    )
    return tmp_path


def test_cells(results):
    none, pi = heatmap.heat_maps(find_runs([results]))
    assert (none.lengths, none.depths) == ([1024, 2048], [0, 50, 100])
    assert [none.mean(1024, depth) for depth in none.depths] == [1.0, 0.5, 0.0]
    assert none.scores[1024, 50] == [0, 1]
    assert heatmap.titles([none, pi]) == ["none", "pi, trained to 1k"]
    assert (none.trained_length, none.boundary) == (256, None)
    assert (pi.trained_length, pi.boundary) == (1024, 1)
    assert heatmap.heat_maps(find_runs([results]), trained_length=1500)[0].boundary == 1


def test_of_a_task_run_twice_the_newest_counts(results):
    write_run(results, 3, "pi", {"niah_2k": grid(2048, [0], [0], [0])}, trained=1024)
    pi = heatmap.heat_maps(find_runs([results]))[1]
    assert [pi.mean(2048, depth) for depth in pi.depths] == [0, 0, 0]
    assert pi.mean(1024, 0) == 1


def test_what_answers_depend_on_makes_another_map(results):
    write_run(results, 3, "none", {"niah_1k": grid(1024, [0], [0], [0])}, dtype="bfloat16")
    maps = heatmap.heat_maps(find_runs([results]))
    assert [found.model for found in maps] == ["small", "small", "small dtype=bfloat16"]
    write_run(results, 4, "none", {"niah_1k": grid(1024, [0], [0], [0])}, batch_size=4)
    assert len(heatmap.heat_maps(find_runs([results]))) == 3


def test_percent_and_many_depths(tmp_path):
    cells = {(4096, n / 40): [100.0 * (n < 20)] for n in range(40)}
    write_run(tmp_path, 1, "none", {"ruler_4k_niah_single_1": cells})
    (found,) = heatmap.heat_maps(find_runs([tmp_path]))
    assert found.family == "ruler_niah_single_1"
    assert found.depths == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert [found.mean(4096, depth) for depth in found.depths] == [1.0] * 5 + [0.0] * 5


@pytest.mark.parametrize(
    ("task", "family"),
    [
        ("niah_32k", "niah"),
        ("niah_lceg_4256", "niah_lceg"),
        ("mini_needle_hard_256", "mini_needle_hard"),
        ("ruler_128k_vt", "ruler_vt"),
    ],
)
def test_families(task, family):
    assert task_family(task) == family


def test_length_names():
    assert [length_name(n) for n in (128, 1000, 1024, 131072)] == ["128", "1000", "1k", "128k"]


def test_picture(results, tmp_path):
    """Colours, the line, the missing cell: in the picture itself."""
    image = pytest.importorskip("matplotlib.image")
    (tmp_path / "png").mkdir()
    maps = heatmap.heat_maps(find_runs([results]))
    del maps[1].scores[2048, 100]
    heatmap.draw(maps, tmp_path / "png" / "map.png")
    pixels = (image.imread(tmp_path / "png" / "map.png")[..., :3] * 255).round().astype(int)
    seen = {tuple(pixel) for pixel in pixels.reshape(-1, 3)}
    for colour in (*heatmap.COLOURS, heatmap._MISSING):
        red, green, blue = bytes.fromhex(colour[1:])
        near = [p for p in seen if max(abs(p[0] - red), abs(p[1] - green), abs(p[2] - blue)) <= 3]
        assert near, f"{colour} is not in the picture"


def test_the_line_stands_between_trained_and_untrained_lengths(results):
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    none, pi = heatmap.heat_maps(find_runs([results]))
    colours = LinearSegmentedColormap.from_list("needle", heatmap.COLOURS)
    for found, lines in ((none, []), (pi, [1])):
        axis = Figure().subplots()
        heatmap._panel(axis, found, colours)
        assert [line.get_xdata()[0] for line in axis.lines] == lines
        assert axis.get_ylim()[0] > axis.get_ylim()[1], "0 % on top"
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1k", "2k"]
        assert [tick.get_text() for tick in axis.get_yticklabels()] == ["0", "50", "100"]


def test_terminal(results):
    pi = heatmap.heat_maps(find_runs([results]))[1]
    console = Console(file=io.StringIO(), width=80, color_system="truecolor", force_terminal=True)
    heatmap.print_map(pi, "pi", console)
    coloured = console.file.getvalue()
    assert "48;2;12;215;159" in coloured  # 1.0: #0CD79F
    assert "48;2;240;73;110" in coloured  # 0.0: #F0496E
    console = Console(file=io.StringIO(), width=80)
    heatmap.print_map(pi, "pi", console)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines[0] == ["niah:", "pi,", "mean", "0.83", "[0.44,", "0.97]"]
    assert lines[1] == ["depth", "%", "1k", "┆", "2k"]
    assert lines[2:5] == [
        ["0", "1.00", "┆", "1.00"],
        ["50", "1.00", "┆", "0.00"],
        ["100", "1.00", "┆", "1.00"],
    ]


def test_a_narrow_terminal_gets_all_columns():
    maps = heatmap.heat_maps(find_runs([GRID]))
    console = Console(file=io.StringIO(), width=32)
    heatmap.print_map(maps[0], "none", console)
    text = console.file.getvalue()
    assert all(name in text for name in ("128", "256", "512", "1k", "2k", "4k"))


# ----------------------------------------------------------------- command line


def run(*words):
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    options = parser.parse_args(["report", *map(str, words)])
    return options.run(options)


def test_command(results, tmp_path, capsys):
    assert run("heatmap", results, "--out", tmp_path / "made", "--task", "niah") == 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "heatmap_niah.csv",
        "heatmap_niah.png",
    ]
    assert "niah: pi, trained to 1k" in capsys.readouterr().out
    assert run("heatmap", results, "--no-png") == 0
    assert not list(results.glob("*.png"))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--metric", "scoer"], ValueError, "the metric 'scoer'"),
        (["--task", "nia"], ValueError, "family 'nia'; families that have them: niah"),
    ],
)
def test_what_is_not_there_is_an_error(results, words, error, message):
    with pytest.raises(error, match=message):
        run("heatmap", results, *words)


def test_wrong_paths_and_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        run("heatmap", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"No results_\*\.json"):
        run("heatmap", tmp_path)
    (tmp_path / "results_x.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a results file"):
        run("heatmap", tmp_path)
    (tmp_path / "samples.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(ValueError, match="line 2 is not a JSON object"):
        list(SamplesFile(tmp_path / "samples.jsonl"))


def test_compact_keeps_what_reports_read(results, tmp_path):
    assert run("compact", results, "--out", tmp_path / "small") == 0
    before, after = (heatmap.heat_maps(find_runs([p])) for p in (results, tmp_path / "small"))
    assert before[:2] == after[:2]
    for run_ in find_runs([tmp_path / "small"]):
        assert "pretty_env_info" not in run_.content
        for samples in run_.samples.values():
            assert "long" not in json.dumps(samples)
            assert samples[0]["filtered_resps"] == ["a"]


def test_the_stored_grid(tmp_path):
    maps = heatmap.heat_maps(find_runs([GRID]))
    assert [heatmap.summary(found) for found in maps] == [
        "mean 0.35 [0.31, 0.39]",
        "mean 0.80 [0.76, 0.83]",
    ]
    heatmap.write_cells(maps, tmp_path / "cells.csv")
    rows = list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))
    assert len(rows) == 2 * 6 * 10
    assert {row["runs"] for row in rows} == {"10"}
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in rows)


def test_importing_is_light():
    code = (
        "import sys, ctxbench.report.cli, ctxbench.report.heatmap, ctxbench.report.compact;"
        "assert not {'torch', 'lm_eval', 'matplotlib', 'rich', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
