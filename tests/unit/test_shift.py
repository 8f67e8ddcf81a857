"""Random shifts against padding and cropping in NumPy, and what a loss sees of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.losses import shifted
from trainer.losses.shift import move, translate
from trainer.streams import Streams
from trainer.types import Batch, Future, LossOut, Rates, Sequences

CPU = torch.device("cpu")


def streams(shards: range = range(1)) -> Streams:
    return Streams({s: torch.Generator().manual_seed(s) for s in shards}, CPU, torch.float32)


def pictures(rows: int, *shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    g = torch.Generator().manual_seed(rows)
    return torch.randint(0, 256, (rows, *shape), generator=g).to(dtype)


def pad_and_crop(image: np.ndarray[Any, Any], by: tuple[int, int], most: int) -> np.ndarray[Any, Any]:
    """Yarats et al. 2021, section 4.1: pad by copies of the border, then crop at a random place."""
    height, width = image.shape[-2:]
    padding = [(0, 0)] * (image.ndim - 2) + [(most, most)] * 2
    y, x = by[0] + most, by[1] + most
    return np.pad(image, padding, mode="edge")[..., y : y + height, x : x + width]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(0, 6), st.data())
def test_translate_is_to_pad_and_crop(rows: int, frames: int, height: int, width: int, most: int, data: Any) -> None:
    """Also where the shift is larger than the image."""
    images = pictures(rows, frames, height, width)
    by = [data.draw(st.tuples(st.integers(-most, most), st.integers(-most, most))) for _ in range(rows)]
    expected = np.stack([pad_and_crop(images[b].numpy(), by[b], most) for b in range(rows)])
    np.testing.assert_array_equal(translate(images, torch.tensor(by)).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32, torch.float64])
def test_every_number_type_stays_what_it_is(dtype: torch.dtype) -> None:
    images = pictures(8, 4, 6, 5, dtype=dtype)
    out = move(images, streams(), 2)
    assert (out.dtype, out.shape) == (dtype, images.shape)
    assert not torch.equal(out, images)
    assert torch.equal(move(images, streams(), 0), images)


def test_all_shifts_are_equally_likely() -> None:
    """In each direction, independently: 9 x 9 shifts, chi-squared with 80 degrees of freedom."""
    most, rows = 4, 40_000
    image = torch.arange(10_000.0).view(1, 1, 100, 100).expand(rows, -1, -1, -1)[:, :, 40:60, 40:60]
    corner = move(image, streams(), most)[:, 0, 10, 10] - image[0, 0, 10, 10]
    by = torch.stack(((corner / 100).round(), corner - 100 * (corner / 100).round()), 1).long() + most
    counts = torch.bincount(by[:, 0] * 9 + by[:, 1], minlength=81).double()
    assert len(counts) == 81
    expected = rows / 81
    assert float(((counts - expected) ** 2 / expected).sum()) < 80 + 5 * (2 * 80) ** 0.5


class Seen:
    """A loss that keeps the batch it is given."""

    def __call__(self, net: nn.Module, target_net: nn.Module, batch: Any, rates: Rates) -> LossOut:
        self.batch = batch
        return LossOut(torch.zeros(len(batch.obs)), torch.zeros(len(batch.obs)), {})


def seen(batch: Any, pixels: int = 2) -> Any:
    net, loss = nn.Identity(), Seen()
    shifted(net, net, batch, Rates(), base=loss, draws=streams(), pixels=pixels)
    return loss.batch


def transitions(rows: int = 64, steps: int = 3) -> Batch:
    """Transitions that go nowhere: every observation of a row is the same picture, and so are its two frames."""
    obs = pictures(rows, 1, 9, 9).expand(-1, 2, -1, -1)
    no = torch.zeros(rows, steps, dtype=torch.int64)
    future = Future(obs[:, None].expand(-1, steps, -1, -1, -1), no, ~no.bool())
    some = torch.rand(rows)
    return Batch(obs, torch.arange(rows), some, some, obs.clone(), torch.arange(rows), future=future)


def test_what_a_loss_sees_of_transitions() -> None:
    batch = transitions()
    out = seen(batch)
    assert out.future is not None
    frames = torch.cat((out.obs[:, None], out.next_obs[:, None], out.future.obs), 1)  # [B, 5, 2, H, W]
    assert torch.equal(frames[:, :, 0], frames[:, :, 1]), "the frames of a stack move together"
    for i in range(5):
        for j in range(i):
            same = (frames[:, i] == frames[:, j]).flatten(1).all(1).sum()
            assert same < 12, "of 64; one in 25 is expected: every observation moves by itself"
    for name in ("action", "ret", "discount", "index"):
        assert torch.equal(getattr(out, name), getattr(batch, name))
    assert torch.equal(out.future.action, batch.future.action)  # type: ignore[union-attr]
    assert torch.equal(seen(batch, 0).obs, batch.obs)


def test_a_sequence_moves_as_one() -> None:
    rows, length = 32, 5
    obs = pictures(rows, 1, 1, 9, 9).expand(-1, length, -1, -1, -1)
    rest = dict.fromkeys(Sequences._fields, torch.zeros(rows, length))
    sequences = Sequences(**{**rest, "obs": obs})
    out = seen(sequences)
    assert (out.obs == out.obs[:, :1]).all()
    assert (out.obs != obs).flatten(1).any(1).sum() > rows * 0.8


def test_a_shard_shifts_alike_on_any_rank() -> None:
    images = pictures(12, 2, 6, 6)
    together = move(images, streams(range(2)), 2)
    apart = [move(images[6 * s : 6 * s + 6], streams(range(s, s + 1)), 2) for s in range(2)]
    assert torch.equal(together, torch.cat(apart))
