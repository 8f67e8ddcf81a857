"""The table of results and its figure, from run folders made up here."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import archive, learning, results_table, rows
from benchmarks.figures import COLOURS, curves
from benchmarks.suites import SUITES, Suite
from trainer.evaluate import interquartile_mean
from trainer.presets import PRESETS

SUITE = Suite(
    "Two games",
    ("Catch", "Chain"),
    {
        "DQN": {"Catch": "dqn-catch", "Chain": "dqn-chain"},
        "PQN": {"Catch": "pqn-catch", "Chain": "pqn-chain"},
        "Rainbow": {"Chain": "rainbow-chain"},
    },
    reference="DQN",
)
SEEDS = [1, 2]
RETURNS = {"dqn-catch": [1.0, 3.0], "dqn-chain": [10.0, 10.0], "pqn-catch": [4.0, 8.0], "pqn-chain": [30.0, 50.0]}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_table, "RESAMPLES", 200)


def finish(folder: Path, name: str, mean: float, env_steps: int = 1000) -> None:
    """A run folder as it is when the run has finished."""
    run = folder / name
    run.mkdir(parents=True)
    lines = [{"global_step": 10 * i, "charts/episodic_return": mean} for i in range(1, 101)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"env_steps": env_steps, "seconds": 60.0, "evaluation": {"mean": mean, "episodes": 100}}
    (run / "results.json").write_text(json.dumps(results))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for preset, returns in RETURNS.items():
        for seed, mean in zip(SEEDS, returns, strict=True):
            finish(tmp_path / "runs", f"{preset}-s{seed}", mean)
    finish(tmp_path / "runs", "rainbow-chain-s1", 20.0)
    unfinished = tmp_path / "runs" / "rainbow-chain-s2"
    unfinished.mkdir()
    (unfinished / "metrics.jsonl").write_text('{"global_step": 10, "charts/episodic_return": 99.0}\n')
    return tmp_path / "runs"


def test_table(folder: Path) -> None:
    """Mean and standard deviation over seeds; their number where seeds are missing, nothing where none is asked for."""
    cells = results_table.read(SUITE, folder, SEEDS)
    head, line, *methods = results_table.markdown(SUITE, cells, SEEDS)
    assert head == "| method | Catch | Chain | IQM [95%] | command |"
    assert line == "| --- | --- | --- | --- | --- |"
    dqn, pqn, rainbow = ([word.strip() for word in row.strip("|").split("|")] for row in methods)
    assert dqn[:3] == ["DQN", "2.0 ± 1.4", "10.0 ± 0.0"]
    assert pqn[:3] == ["PQN", "6.0 ± 2.8", "40.0 ± 14.1"]
    assert pqn[4] == "`lockstep train pqn-TASK --seed S`"
    assert rainbow == ["Rainbow", "", "20.0 (1 of 2)", "-", "`lockstep train rainbow-chain --seed S`"]


def test_aggregate_is_the_interquartile_mean_of_normalised_runs(folder: Path) -> None:
    cells = results_table.read(SUITE, folder, SEEDS)
    found = results_table.aggregate(SUITE, cells, SEEDS)
    assert found.keys() == {"DQN", "PQN"}
    normalised = [4 / 2, 8 / 2, 30 / 10, 50 / 10]
    assert found["PQN"].point == pytest.approx(interquartile_mean(normalised))
    assert found["PQN"].low < found["PQN"].point < found["PQN"].high
    assert results_table.aggregate(SUITE, cells, SEEDS) == found, "the bootstrap is seeded"


def test_interval_is_a_bootstrap_stratified_by_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against resampling by hand: seeds are drawn task by task, so a task never counts more than another."""
    rng = np.random.default_rng(5)
    scores = rng.normal([1.0, 5.0, 9.0], 0.5, (8, 3))
    monkeypatch.setattr(results_table, "RESAMPLES", 2_000)
    found = results_table.interquartile_means({"PQN": scores})["PQN"]
    means = []
    for _ in range(2_000):
        drawn = np.stack([rng.choice(scores[:, task], 8) for task in range(3)])
        means.append(interquartile_mean(drawn.flatten().tolist()))
    low, high = np.percentile(means, [2.5, 97.5])
    np.random.random()
    assert results_table.interquartile_means({"PQN": scores})["PQN"] == found, "whatever was drawn before"
    assert found.point == pytest.approx(interquartile_mean(scores.flatten().tolist()))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_no_aggregate_before_the_reference_has_finished(folder: Path) -> None:
    (folder / "dqn-chain-s2" / "results.json").unlink()
    cells = results_table.read(SUITE, folder, SEEDS)
    assert results_table.aggregate(SUITE, cells, SEEDS) == {}
    assert "10.0 (1 of 2)" in results_table.markdown(SUITE, cells, SEEDS)[2]


def test_what_is_kept_of_a_run(folder: Path, tmp_path: Path) -> None:
    """Its results, its config without the machine's folder, and the means of its returns over equal stretches."""
    run = folder / "dqn-catch-s1"
    (run / "config.json").write_text('{"seed": 1, "log": {"dir": "/somewhere"}}')
    steps = 2 * archive.POINTS
    curve = [{"global_step": 10 * i, archive.RETURN: float(i)} for i in range(steps)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"global_step": 0}, *curve]))
    assert archive.keep(run, "abc", tmp_path)
    assert not archive.keep(run, "abc", tmp_path), "once is enough"
    assert not archive.keep(folder / "rainbow-chain-s2", "abc", tmp_path), "it has not finished"
    kept = tmp_path / run.name
    assert json.loads((kept / "config.json").read_text()) == {"seed": 1, "log": {"dir": "runs"}}
    assert json.loads((kept / "results.json").read_text())["trained_with"]["commit"] == "abc"
    rows = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == archive.POINTS
    assert rows[1] == {"global_step": 30, archive.RETURN: 2.5}


def test_nothing_has_run(tmp_path: Path) -> None:
    cells = results_table.read(SUITE, tmp_path / "none", SEEDS)
    assert "- (0 of 2)" in results_table.markdown(SUITE, cells, SEEDS)[2]
    figure = curves(SUITE, tmp_path / "none", SEEDS, tmp_path / "curves.png")
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["no finished run"] * 2


def test_runs_of_one_cell_are_equally_long(folder: Path) -> None:
    finish(folder, "dqn-catch-s3", 1.0, env_steps=999)
    with pytest.raises(ValueError, match="dqn-catch: its runs are of different lengths"):
        results_table.read(SUITE, folder, [1, 2, 3])


def test_figure_has_a_panel_a_task_and_a_colour_a_method(folder: Path, tmp_path: Path) -> None:
    figure = curves(SUITE, folder, SEEDS, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Catch", "Chain"]
    for axes, task in zip(figure.axes, SUITE.tasks, strict=True):
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        for method, line in lines.items():
            returns = RETURNS.get(SUITE.methods[method][task], [20.0])  # of Rainbow one seed has finished
            np.testing.assert_allclose(np.asarray(line.get_ydata()), statistics.fmean(returns))
            assert line.get_color() == COLOURS[method]
        assert ("Rainbow" in lines) == (task == "Chain")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["DQN", "PQN", "Rainbow"]


@pytest.mark.parametrize("name", SUITES)
def test_suites_name_presets_that_exist(name: str) -> None:
    suite = SUITES[name]
    for method, presets in suite.methods.items():
        assert method in COLOURS
        assert set(presets) <= set(suite.tasks)
        for preset in presets.values():
            assert preset in PRESETS
            assert PRESETS[preset]().preset == preset


def test_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows are written once every run has finished, and not before."""
    monkeypatch.setattr(rows, "HERE", tmp_path)
    monkeypatch.setattr(learning, "SUITES", {"two": SUITE})
    told = tmp_path / "results" / "learning_table.jsonl"
    command = ["--table", "--seeds", "1", "2", "--kept", str(folder), "--images", str(tmp_path)]
    assert learning.main(command) == 0
    assert "while 1 of 5 cells are incomplete" in capsys.readouterr().out
    assert not told.exists()
    (folder / "rainbow-chain-s2" / "results.json").write_text(
        (folder / "rainbow-chain-s1" / "results.json").read_text()
    )
    assert learning.main(command) == 0
    found: list[dict[str, Any]] = [json.loads(line) for line in told.read_text().splitlines()]
    assert [row["method"] for row in found] == ["DQN", "PQN", "Rainbow"]
    assert found[1]["return_by_seed"] == {"Catch": [4.0, 8.0], "Chain": [30.0, 50.0]}
    assert found[1]["one_is_the_mean_of"] == "DQN"
    assert "iqm" not in found[2]
    assert (tmp_path / "learning_two_methods.png").exists()
