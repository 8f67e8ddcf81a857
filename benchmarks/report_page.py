"""The page around the pictures of benchmarks/report.py: one column on a phone, two on a screen; it loads nothing."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lockstep: scaling, measured</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f5f7; color: #222; font: 16px/1.5 system-ui, sans-serif; }
header, main { max-width: 1120px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 12px 0 8px; }
h2 { font-size: 1.05rem; line-height: 1.3; margin: 0 0 4px; }
p { margin: 0 0 10px; color: #444; }
.card p { font-size: .92rem; }
main { display: grid; grid-template-columns: minmax(0, 1fr); gap: 16px; }
@media (min-width: 820px) { main { grid-template-columns: repeat(2, minmax(0, 1fr)); align-items: start; } }
.card { background: #fff; border: 1px solid #dfe3e8; border-radius: 10px; padding: 14px 12px; min-width: 0; }
.card svg { display: block; width: 100%; height: auto; }
details { margin-top: 10px; font-size: .88rem; }
summary { cursor: pointer; color: #2f6fb3; padding: 4px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid #eceff2; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
ul { margin: 0; padding-left: 1.2em; }
code { font-size: .82rem; overflow-wrap: anywhere; }
</style>
</head>
<body>
<header>
<h1>Lockstep: scaling, measured</h1>
<p>@MACHINES@</p>
<p>Every number is a median over repeats of real training runs. Absolute speeds belong to this machine; compare
strategies with each other. Ranks beyond the number of cores share them.</p>
<details><summary>Commands, commits and dates</summary><ul>@COMMANDS@</ul></details>
</header>
<main>
@CARDS@
</main>
</body>
</html>
"""


def page(machines: str, commands: Sequence[str], sections: Sequence[str]) -> str:
    """Return the whole page."""
    items = "".join(f"<li><code>{html.escape(command)}</code></li>" for command in commands)
    parts = {"@MACHINES@": html.escape(machines), "@COMMANDS@": items, "@CARDS@": "\n".join(sections)}
    return re.sub("|".join(parts), lambda found: parts[found[0]], _PAGE)


def section(title: str, text: str, picture: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a card: a heading, an explanation, the picture, and its numbers, folded away."""
    return (
        f'<section class="card"><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>'
        f"{picture}{_table(rows) if rows else ''}</section>"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in body)
    return (
        f'<details><summary>Numbers</summary><div class="scroll"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></details>"
    )


def svg(draw: Callable[[Axes], None], size: tuple[float, float], title: str, name: str) -> str:
    """Return a picture as an SVG element that fills the width available; `name` keeps its ids unique."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.axes[0].set_title("", loc="left")  # the card has one
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue().replace("\n", " ")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :])
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
