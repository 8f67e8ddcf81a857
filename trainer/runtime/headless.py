"""Drawing without a screen."""

from __future__ import annotations

import os


def draw_offscreen() -> None:
    """Tell SDL, which Gymnasium draws with, not to look for a screen: without one it would complain, or fail."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
