"""An animated GIF of an episode, small enough for a README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.log.files import whole_file

if TYPE_CHECKING:
    from PIL import Image

MIN_DELAY = 20
"""Browsers slow down animations with a shorter delay than this between frames [ms]."""
PALETTE_FRAMES = 12
"""Frames from which the common palette is taken."""


def write_gif(
    frames: Sequence[np.ndarray[Any, np.dtype[np.uint8]]],
    path: Path,
    *,
    fps: int,
    max_frames: int = 600,
    width: int = 320,
    colors: int = 64,
) -> None:
    """Write `frames`, each [H, W, 3] uint8, as a looping GIF of `width` pixels.

    All frames share one palette: without it every frame would carry its own, and flicker. Of more than `max_frames`,
    or more than 50 per second, every k-th is kept and shown k times as long.

    Raises:
        ValueError: no frames, or frames of another kind.
        ImportError: pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("A GIF needs pillow: pip install 'lockstep[video]'.") from error
    if not frames:
        raise ValueError("There are no frames to write; record at least one step.")
    first = frames[0]
    if first.dtype != np.uint8 or first.ndim != 3 or first.shape[2] != 3:
        raise ValueError(f"Frames must be [H, W, 3] uint8, got {list(first.shape)} {first.dtype}.")

    stride = max(-(-len(frames) // max_frames), -(-fps * MIN_DELAY // 1000), 1)
    delay = max(round(100 * stride / fps) * 10, MIN_DELAY)  # GIF counts hundredths of a second
    size = (width, max(round(width * first.shape[0] / first.shape[1]), 1))
    # Pixel art stays crisp when enlarged; thin lines survive being shrunk.
    resample = Image.Resampling.NEAREST if width >= first.shape[1] else Image.Resampling.LANCZOS
    images = [Image.fromarray(frame).resize(size, resample) for frame in frames[::stride]]
    palette = _palette(images, colors)
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    # Passing the palette once more keeps pillow from storing a copy with each frame.
    table = bytes(palette.getpalette() or ())
    with whole_file(path) as draft:
        indexed[0].save(
            draft, format="GIF", save_all=True, append_images=indexed[1:], palette=table, duration=delay, loop=0,
            optimize=False,
        )  # fmt: skip


def _palette(images: Sequence[Image.Image], colors: int) -> Image.Image:
    """Return an image that holds the palette of a sample of `images`."""
    from PIL import Image

    chosen = [images[int(index)] for index in np.linspace(0, len(images) - 1, min(PALETTE_FRAMES, len(images)))]
    width, height = chosen[0].size
    sheet = Image.new("RGB", (width, height * len(chosen)))
    for row, image in enumerate(chosen):
        sheet.paste(image, (0, row * height))
    return sheet.quantize(colors=colors)
