"""The learning curve and the GIF: files that open, have the right size and tell the right numbers."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from trainer.log import plot
from trainer.log.plot import learning_curve
from trainer.log.video import write_gif


def run_with(path: Path, rows: list[dict[str, Any]], tail: str = "") -> Path:
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def training(level: float, count: int = 20) -> list[dict[str, Any]]:
    return [{"global_step": 100 * i, "charts/episodic_return": level} for i in range(1, count + 1)]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: Any, **options: Any) -> None:
        saved.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    return saved


def line_values(figure: Figure) -> list[float]:
    """The distinct y values of the main training line."""
    (line,) = [line for line in figure.axes[0].get_lines() if str(line.get_label()).startswith("training return")]
    return sorted(set(np.round(np.asarray(line.get_ydata(), dtype=float), 6)))


def assert_png(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1600, 900)


def test_no_run_has_rows(tmp_path: Path, figures: list[Figure]) -> None:
    runs = [tmp_path / "none", run_with(tmp_path / "empty", [])]
    learning_curve(runs, tmp_path / "deep" / "curve.png", title="nothing")
    assert_png(tmp_path / "deep" / "curve.png")
    assert "no data yet" in [text.get_text() for text in figures[0].axes[0].texts]
    learning_curve([], tmp_path / "curve.png", title="nothing")
    assert_png(tmp_path / "curve.png")


def test_one_run_with_evaluations_and_a_partial_line(tmp_path: Path, figures: list[Figure]) -> None:
    rows = training(50.0)
    rows[3]["charts/episodic_return"] = None
    rows.append({"global_step": 500, "eval/return_mean": 60.0, "eval/return_ci_low": 55.0, "eval/return_ci_high": 70.0})
    rows.append({"global_step": 900, "eval/return_mean": 65.0})
    rows.append({"global_step": 1000, "losses/td_loss": 1.0})
    learning_curve([run_with(tmp_path / "run", rows, '{"global_st')], tmp_path / "curve.png", title="one")
    assert_png(tmp_path / "curve.png")
    axes = figures[0].axes[0]
    assert line_values(figures[0]) == [50.0]
    assert axes.get_xlabel() == "env steps"
    (bars,) = axes.containers
    assert bars.get_label() == "greedy evaluation"
    assert list(bars[0].get_xydata().ravel()) == [500, 60, 900, 65]
    assert [segment[:, 1].tolist() for segment in bars[2][0].get_segments()] == [[55, 70], [65, 65]]


def test_three_runs_are_a_mean_and_a_range(tmp_path: Path, figures: list[Figure]) -> None:
    levels, lengths = (10.0, 20.0, 60.0), (20, 30, 25)
    runs = [
        run_with(
            tmp_path / str(i), [*training(level, count), {"global_step": 1000, "eval/return_mean": level + 1}]
        )
        for i, (level, count) in enumerate(zip(levels, lengths, strict=True))
    ]  # fmt: skip
    learning_curve([*runs, run_with(tmp_path / "empty", [])], tmp_path / "curve.png", title="three")
    assert_png(tmp_path / "curve.png")
    axes = figures[0].axes[0]
    assert line_values(figures[0]) == [30.0]
    (band,) = [item for item in axes.collections if type(item).__name__ != "LineCollection"]
    box = band.get_paths()[0].get_extents()
    assert (box.y0, box.y1) == (10.0, 60.0)
    assert (box.x0, box.x1) == (100.0, 2000.0), "only where every run has data"
    assert axes.containers[0][2][0].get_segments()[0][:, 1].tolist() == [11, 61]
    assert "3 runs" in axes.get_legend().get_texts()[0].get_text()


def test_smoothing_keeps_lines_and_lowers_noise() -> None:
    assert np.allclose(plot._smooth(np.full(500, 3.0)), 3.0)
    noise = np.random.default_rng(0).normal(size=500)
    assert plot._smooth(noise).std() < noise.std() / 2
    assert list(plot._smooth(np.array([1.0, 2.0]))) == [1.0, 2.0]


def test_a_missing_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"lockstep\[plot\]"):
        learning_curve([], tmp_path / "curve.png", title="")


def moving_box(count: int, height: int = 400, width: int = 600) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    frames = []
    for i in range(count):
        frame = np.full((height, width, 3), 255, np.uint8)
        left = (7 * i) % (width - 60)
        frame[height // 2 : height // 2 + 40, left : left + 60] = (200, 150, 100)
        frame[height // 2 + 20, :] = 0
        frames.append(frame)
    return frames


def test_gif_has_every_frame_at_the_asked_pace_and_size(tmp_path: Path) -> None:
    path = tmp_path / "agent.gif"
    write_gif(moving_box(40), path, fps=25)
    with Image.open(path) as image:
        assert image.n_frames == 40
        assert image.size == (320, 213)
        assert image.info["duration"] == 40
        assert image.info["loop"] == 0
        image.seek(20)
        box = image.convert("RGB").getpixel((round((140 + 30) * 320 / 600), 110))
    assert box == pytest.approx((200, 150, 100), abs=8)
    assert [file.name for file in tmp_path.iterdir()] == ["agent.gif"]


def test_gif_of_500_cartpole_sized_frames_is_small(tmp_path: Path) -> None:
    write_gif(moving_box(500), tmp_path / "agent.gif", fps=50)
    assert (tmp_path / "agent.gif").stat().st_size < 2_000_000


def test_gif_frames_share_one_palette(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    frames = [colours.copy() for _ in range(50)]
    for i, frame in enumerate(frames):
        frame[i % 8, i // 8] = 0
    write_gif(frames, tmp_path / "agent.gif", fps=25, width=8)
    assert (tmp_path / "agent.gif").stat().st_size < 50 * 3 * 64, "less than 50 palettes of 64 colours"


def test_gif_thins_out_long_and_fast_episodes_in_real_time(tmp_path: Path) -> None:
    for count, fps, max_frames in ((100, 20, 30), (60, 100, 600)):
        path = tmp_path / f"{fps}.gif"
        write_gif(moving_box(count, 90, 600), path, fps=fps, max_frames=max_frames)
        with Image.open(path) as image:
            assert image.n_frames <= max_frames
            assert image.info["duration"] >= 20
            assert image.n_frames * image.info["duration"] / 1000 == pytest.approx(count / fps, rel=0.05)


def test_gif_replaces_the_old_one_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.gif"
    path.write_bytes(b"old")

    def fail(self: Image.Image, file: Path, **options: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_gif(moving_box(3), path, fps=25)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_gif_refuses_what_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no frames"):
        write_gif([], tmp_path / "a.gif", fps=25)
    with pytest.raises(ValueError, match=r"\[H, W, 3\] uint8"):
        write_gif([np.full((4, 4, 3), math.pi)], tmp_path / "a.gif", fps=25)  # type: ignore[list-item]
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"lockstep\[video\]"):
        write_gif(moving_box(1), tmp_path / "a.gif", fps=25)
