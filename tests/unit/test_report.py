"""The page of the scaling benchmark: made of rows, and of nothing from elsewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_scaling import row

from benchmarks import report


class Page(HTMLParser):
    """What a page would load, its ids, and its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.metas: list[dict[str, str | None]] = []
        self.svgs = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.svgs += tag == "svg"
        if tag == "meta":
            self.metas.append(found)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and value:
                (self.references if value.startswith("#") else self.loads).append(value.lstrip("#"))
            if value:
                self.references += re.findall(r"url\(#([^)]+)\)", value)


def recorded(folder: Path) -> None:
    """One row of each kind, and what makes a curve of them."""
    told = [row("flat", 1, [100, 110]), row("flat", 2, [180, 190]), row("gossip", 2, [150, 160]), row("flat", 4, [300])]
    (folder / "scaling.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told))
    lines = [
        {
            **row(strategy, 4, [1]),
            "scenario": "slow rank",
            "seconds": 8,
            "network": "n",
            "megabits": None,
            "gradients_per_s": [100.0],
            "return": [0.1],
            "curves": [[(1, -0.5), (2, 0.1)]],
        }
        for strategy in ("flat", "server-async")
    ]
    (folder / "slow.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    wire = {"counted": 10, "formula": 10, "formula_words": "2n(p-1)", "loopback": 11, "exchange_us": 5.0}
    line = row("", 2, [1]) | {"net": "<mlp>", "bytes": 5, "us": {"bare": 5.0}, "strategies": {"flat": wire}}
    (folder / "comm.jsonl").write_text(json.dumps(line) + "\n")


def test_the_report_stands_alone(tmp_path: Path) -> None:
    recorded(tmp_path)
    assert report.main(["--rows", str(tmp_path), "--image", str(tmp_path / "all.png")]) == 0
    text = (tmp_path / "scaling.html").read_text()
    page = Page(text)
    assert page.loads == [], "nothing is loaded from anywhere"
    assert "@import" not in text
    assert "<script" not in text
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.metas
    assert len(page.ids) == len(set(page.ids)), "pictures do not share ids"
    assert set(page.references) <= set(page.ids)
    assert page.svgs == 8, "4 of scaling, 2 of the slow rank, bytes, and measured beside predicted"
    assert "&lt;mlp&gt;" in text
    assert "<td>88%</td>" in text, "the efficiency of 2 ranks"
    assert (tmp_path / "all.png").stat().st_size > 10_000


def test_a_report_of_nothing_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--rows", str(tmp_path)]) == 1
    assert "--suite cpu writes them" in capsys.readouterr().out


def test_recorded_rows_make_a_page(tmp_path: Path) -> None:
    assert report.main(["--page", str(tmp_path / "page.html")]) == 0
    assert Page((tmp_path / "page.html").read_text()).loads == []
