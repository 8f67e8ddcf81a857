"""Which strategies are compared, and aligned text: what the commands share without importing torch."""

from __future__ import annotations

from collections.abc import Sequence

from launch.model.advice import CANDIDATES
from launch.model.strategies import Strategy


def strategies() -> list[Strategy]:
    return [strategy for strategy, *_ in CANDIDATES]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text; the first column is a name, the others are numbers."""
    text = [list(row) for row in (header, *rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    return "\n".join(
        "  ".join(row[i].ljust(widths[i]) if i == 0 else row[i].rjust(widths[i]) for i in range(len(row)))
        for row in text
    )
