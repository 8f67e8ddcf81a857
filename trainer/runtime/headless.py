"""Drawing without a screen."""

from __future__ import annotations

import os


def draw_offscreen() -> None:
    """Tell SDL, with which Gymnasium draws, to look for no screen: it would complain, or fail, where there is none."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
