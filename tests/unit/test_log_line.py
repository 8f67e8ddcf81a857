"""The live line and the plain one: what they say, and that they fit."""

from __future__ import annotations

import io
import math
import re

import pytest
from rich.console import Console

from trainer.log import console as console_module
from trainer.log.console import ConsoleView
from trainer.log.format import compact, duration, percent, short
from trainer.log.line import live_line, plain_line

VALUES = {
    "env_steps": 4_234_000, "sps": 12_345.6, "return": 401.23, "epsilon": 0.05, "loss": 0.01234, "eta_s": 5025,
    "share_env": 0.31, "share_act": 0.08, "share_learn": 0.55, "share_sync": 0.04, "share_other": 0.02,
}  # fmt: skip


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=20, color_system="standard")


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (950, "950"), (999.6, "1k"), (12_345, "12.3k"), (999_999, "1M"), (4_200_000, "4.2M"),
        (10_000_000, "10M"), (-1500, "-1.5k"), (math.nan, "-"), (math.inf, "-"), (None, "-"),
    ],
)  # fmt: skip
def test_compact(number: float | None, text: str) -> None:
    assert compact(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (401.23, "401.2"), (12.34, "12.3"), (9.999, "10.0"), (1.234, "1.23"), (0.9999, "1.00"),
        (0.01234, "0.012"), (0.0012, "1.2e-3"), (1.2e-5, "1.2e-5"), (-1234.5, "-1234"), (99_999, "100k"),
        (999.97, "1000"), (math.nan, "-"), (None, "-"),
    ],
)  # fmt: skip
def test_short(number: float | None, text: str) -> None:
    assert short(number) == text
    assert len(text) <= 6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00"), (65.4, "01:05"), (3599.7, "1:00:00"), (5025, "1:23:45"), (45_240, "12h34m"), (270_000, "3d03h"),
        (-1, "-"), (math.nan, "-"), (math.inf, "-"), (None, "-"),
    ],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_percent() -> None:
    assert [percent(share) for share in (0.314, 1.0, math.nan, None)] == ["31%", "100%", "-", "-"]


@pytest.mark.parametrize("width", [10, 30, 60, 79, 80, 100, 119, 120, 140, 300])
def test_live_line_fits_and_keeps_its_layout(width: int) -> None:
    big = VALUES | {"sps": 999_949.0, "return": -1234.5, "loss": 1.2e-5, "env_steps": 9_990_000, "eta_s": 1e7}
    lines = [live_line(values, 10_000_000, width) for values in (VALUES, {}, big, dict.fromkeys(VALUES, math.nan))]
    assert all(len(line.plain) <= width for line in lines)
    assert all("\n" not in line.plain for line in lines)
    labels = [re.findall(r"return|eps|loss|env|other|eta", line.plain) for line in lines]
    assert labels[1:] == labels[:-1], "which parts are shown must depend on the width only"
    columns = [[match.start() for match in re.finditer(r"return|eps|loss|env|eta", line.plain)] for line in lines]
    assert columns[1:] == columns[:-1], "and so must where they stand"


def test_live_line_drops_the_least_important_parts_first() -> None:
    at = {width: live_line(VALUES, 10_000_000, width).plain for width in (80, 120)}
    assert re.match(r" 42% ━+  4.23M/10M  12.3k/s  return 401.2 +eps 0.050  eta 1:23:45$", at[80])
    assert "loss 0.012" in at[120]
    assert "env 31% act 8% learn 55% sync 4%" in at[120]


def test_unknown_values_are_dashes() -> None:
    line = plain_line({"env_steps": 10, "return": math.nan}, 1000)
    assert line.startswith("  1%  10/1k  -/s  return -  eps -  loss -  env - act - learn - sync -")
    assert line.endswith("eta -")


def test_live_line_without_unicode() -> None:
    assert live_line(VALUES, 10_000_000, 80, ascii_only=True).plain.isascii()


def test_plain_output_has_no_control_characters_and_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])
    console = pipe()
    view = ConsoleView(console, 10_000_000)
    for step in range(25):
        view.progress(VALUES | {"env_steps": step})
        now[0] += 1.0
    view.message("an [bold]error\x1b[31m\r in " + "a long line " * 20)
    view.close()
    text = text_of(console)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    lines = text.splitlines()
    assert [line.split()[1] for line in lines if "eps" in line] == ["0/10M", "10/10M", "20/10M", "24/10M"]
    assert lines[3].startswith("an [bold]error[31m in ")
    assert len(lines) == 5, "long lines are not wrapped"


def test_terminal_redraws_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])
    console = terminal(100)
    view = ConsoleView(console, 10_000_000)
    for step in range(200):
        view.progress(VALUES | {"env_steps": step})
        now[0] += 0.01
    view.message("hello [bold]there")
    view.close()
    view.close()
    text = text_of(console)
    # 2 s at 4/s, one redraw under the message, two at the end.
    assert 8 <= text.count("/10M") <= 8 + 3
    assert "hello [bold]there" in text
    assert "199/10M" in text, "the last values are shown"
    assert text.endswith("\x1b[?25h"), "the cursor is visible again"
