"""The text of the progress line: what fits into a width, the least important parts left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rich.text import Text

from trainer.log.format import compact, duration, percent, short

GAP = "  "
BAR_MIN, BAR_MAX = 6, 40
LABEL, GOOD = "bright_black", "bold green"
SHARES = ("env", "act", "learn", "sync")


class Part(NamedTuple):
    """A piece of the line. Its width is fixed, so that what fits depends on the terminal and not on the values."""

    name: str
    rank: int  # 0 is dropped last
    pieces: tuple[tuple[str, str], ...]  # label, value
    width: int
    style: str = ""

    def plain(self) -> str:
        return " ".join(f"{label} {value}" if label else value for label, value in self.pieces)

    def text(self) -> Text:
        text = Text(" ").join(
            Text(f"{label} " if label else "", LABEL) + Text(value, self.style) for label, value in self.pieces
        )
        text.pad_right(self.width - len(text.plain))
        return text


def plain_line(values: Mapping[str, float], total_env_steps: int) -> str:
    """Return every part without bar or padding."""
    return GAP.join(part.plain() for part in _parts(values, total_env_steps))


def live_line(values: Mapping[str, float], total_env_steps: int, width: int, *, ascii_only: bool = False) -> Text:
    """Return one line of at most `width` columns; the bar takes what the other parts leave."""
    parts = _parts(values, total_env_steps)
    chosen = {parts[0].name}
    used = parts[0].width
    for part in sorted(parts[1:], key=lambda part: part.rank):
        if part.name == "other" and "shares" not in chosen:
            continue  # other than what?
        # The bar comes before the parts of rank 5 and up: they may not take its place.
        reserve = BAR_MIN + 1 if part.rank >= 5 else 0
        if used + len(GAP) + part.width + reserve <= width:
            chosen.add(part.name)
            used += len(GAP) + part.width

    texts = [part.text() for part in parts if part.name in chosen]
    bar = min(width - used - 1, BAR_MAX)
    if bar >= BAR_MIN:
        texts[0] = texts[0] + Text(" ") + _bar(_done(values, total_env_steps), bar, ascii_only)
    line = Text(GAP).join(texts)
    line.rstrip()
    line.truncate(width)
    line.no_wrap = True
    line.overflow = "crop"
    return line


def _done(values: Mapping[str, float], total_env_steps: int) -> float:
    """Return the share done in [0, 1]; 0 while it is not known."""
    done = values.get("env_steps", 0.0) / max(total_env_steps, 1)
    return min(max(done, 0.0), 1.0) if done == done else 0.0


def _parts(values: Mapping[str, float], total_env_steps: int) -> list[Part]:
    """Return every part in the order of the line."""
    get = values.get
    total = compact(total_env_steps)
    shares = tuple((name, percent(get(f"share_{name}"))) for name in SHARES)
    # Floor, not round: 100% means done.
    done = f"{int(100 * _done(values, total_env_steps)):3d}%"
    return [
        Part("done", 0, (("", done),), 4, "bold"),
        Part("steps", 1, (("", f"{compact(get('env_steps'))}/{total}"),), 6 + len(total)),
        Part("sps", 2, (("", f"{compact(get('sps'))}/s"),), 7),
        Part("return", 3, (("return", short(get("return"))),), 13, GOOD),
        Part("epsilon", 5, (("eps", short(get("epsilon"))),), 9),
        Part("loss", 7, (("loss", short(get("loss"))),), 11),
        Part("shares", 6, shares, 34),
        Part("other", 8, (("other", percent(get("share_other"))),), 9),
        Part("eta", 4, (("eta", duration(get("eta_s"))),), 11),
    ]


def _bar(done: float, width: int, ascii_only: bool) -> Text:
    fill, rest = ("#", "-") if ascii_only else ("━", "━")
    filled = int(done * width)
    return Text(fill * filled, "cyan") + Text(rest * (width - filled), LABEL)
