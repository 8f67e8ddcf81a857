"""Compressed means: exact where nothing is lost, owed where something is, and the same bits on every rank."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from meeting import Peer, meet
from torch import Tensor, nn

from trainer.build import check_device
from trainer.config import Config, ConfigError, SyncConfig
from trainer.sync import FlatParameters
from trainer.sync.compress import Cast, Compression, Exact, Int8, Narrow, PowerSGD, TopK, powersgd

SHARE = 0.25
Make = Callable[[FlatParameters, Peer], Compression]
METHODS: dict[str, Make] = {
    "none": lambda flat, wire: Exact(wire),
    "fp16": lambda flat, wire: Narrow(flat.grad, wire, Cast("fp16", torch.float16)),
    "bf16": lambda flat, wire: Narrow(flat.grad, wire, Cast("bf16", torch.bfloat16)),
    "int8": lambda flat, wire: Narrow(flat.grad, wire, Int8()),
    "topk": lambda flat, wire: TopK(flat.grad, wire, SHARE),
    "powersgd": lambda flat, wire: PowerSGD(flat, wire, 2),
}
OWING = ("int8", "topk", "powersgd")


def make_flat(dtype: torch.dtype = torch.float64) -> FlatParameters:
    """A convolution, a wide and a tall matrix, a scalar, vectors: 936 elements."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(20, 11), nn.Linear(11, 40))
    net.register_parameter("gain", nn.Parameter(torch.ones(())))
    return FlatParameters(net.to(dtype))


def gradient(rank: int, update: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The gradient of one rank: a part that all share, which drifts, and noise; magnitudes differ by layer."""
    g = torch.Generator().manual_seed(7)
    shared = torch.randn(size, generator=g, dtype=torch.float64) * torch.linspace(0.01, 1, size, dtype=torch.float64)
    g.manual_seed(1000 * update + rank)
    return (shared * (1 + 0.01 * update) + 0.3 * torch.randn(size, generator=g, dtype=torch.float64)).to(dtype)


def mean_of(ranks: int, update: int, size: int) -> Tensor:
    return torch.stack([gradient(rank, update, size) for rank in range(ranks)]).mean(0)


def low_rank(flat: FlatParameters, rank: int, update: int, terms: int) -> Tensor:
    """A gradient whose matrices have rank `terms`, with left factors that all ranks share."""
    shared, own = torch.Generator().manual_seed(update), torch.Generator().manual_seed(100 * update + rank + 1)
    parts = []
    for shape in flat.shapes:
        rows = shape[0] if shape else 1
        left = torch.randn(rows, terms, generator=shared, dtype=torch.float64)
        right = torch.randn(shape.numel() // rows, terms, generator=own, dtype=torch.float64)
        parts.append((left @ right.T).flatten())
    return torch.cat(parts)


def applied(make: Make, ranks: int, grads: Callable[[int, int], Tensor], updates: int = 1) -> Tensor:
    """What every rank steps with, [ranks, updates, P]."""

    def act(wire: Peer) -> Tensor:
        flat = make_flat(grads(0, 0).dtype)
        compression, found = make(flat, wire), []
        for update in range(updates):
            flat.grad.copy_(grads(wire.rank, update))
            compression.mean_(flat.grad)
            found.append(flat.grad.clone())
        return torch.stack(found)

    return torch.stack(meet(ranks, act))


SIZE = make_flat().data.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_every_rank_holds_the_same_bits_and_nearly_the_mean(method: str, ranks: int, dtype: torch.dtype) -> None:
    found = applied(METHODS[method], ranks, lambda rank, update: gradient(rank, update, SIZE, dtype), 5)
    bits = found.view(torch.int32 if dtype is torch.float32 else torch.int64)
    assert all(torch.equal(bits[0], theirs) for theirs in bits)
    mean = torch.stack([mean_of(ranks, update, SIZE) for update in range(5)])
    off = float((found[0].double() - mean).norm() / mean.norm())
    low, high = {"none": (0, 1e-7), "fp16": (1e-5, 1e-3), "bf16": (1e-4, 5e-3), "int8": (1e-3, 2e-2)}.get(
        method, (0.1, 2)
    )
    assert low <= off < high


@pytest.mark.parametrize("method", METHODS)
def test_alone_the_gradient_is_left_as_it_is(method: str) -> None:
    found = applied(METHODS[method], 1, lambda rank, update: gradient(rank, update, SIZE), 3)
    assert torch.equal(found[0], torch.stack([gradient(0, update, SIZE) for update in range(3)]))


@pytest.mark.parametrize("ranks", [2, 4])
def test_topk_of_all_elements_is_the_mean(ranks: int) -> None:
    found = applied(lambda flat, wire: TopK(flat.grad, wire, 1.0), ranks, lambda r, u: gradient(r, u, SIZE), 3)
    for update in range(3):
        torch.testing.assert_close(found[0, update], mean_of(ranks, update, SIZE), rtol=0, atol=1e-15)


@pytest.mark.parametrize("ranks", [2, 4])
def test_powersgd_of_full_rank_is_the_mean(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factorise even where the factors are larger than the matrix, with the rank of its shorter side."""

    def always(shape: torch.Size, rank: int) -> tuple[int, int, int]:
        short, long = sorted((shape[0] if shape else 1, shape.numel() // (shape[0] if shape else 1)))
        return short, long, min(rank, short) if len(shape) > 1 else 0

    monkeypatch.setattr(powersgd, "sides", always)
    found = applied(lambda flat, wire: PowerSGD(flat, wire, 40), ranks, lambda r, u: gradient(r, u, SIZE), 3)
    for update in range(3):
        torch.testing.assert_close(found[0, update], mean_of(ranks, update, SIZE), rtol=0, atol=1e-10)


def test_powersgd_of_low_rank_gradients_is_the_mean() -> None:
    found = applied(METHODS["powersgd"], 2, lambda r, u: low_rank(make_flat(), r, u, 2), 3)
    for update in range(3):
        mean = (low_rank(make_flat(), 0, update, 2) + low_rank(make_flat(), 1, update, 2)) / 2
        torch.testing.assert_close(found[0, update], mean, rtol=0, atol=1e-10)


def test_powersgd_projects_the_mean_as_its_algorithm_1() -> None:
    """A twin in NumPy, by the pseudo-inverse: the projection does not depend on how the basis is made orthogonal."""

    def act(wire: Peer) -> tuple[PowerSGD, Tensor, list[Tensor]]:
        flat = make_flat()
        compression = PowerSGD(flat, wire, 2)
        starts = [matrix.right.clone() for matrix in compression.matrices]
        flat.grad.copy_(gradient(wire.rank, 0, SIZE))
        compression.mean_(flat.grad)
        return compression, flat.grad, starts

    compression, found, starts = meet(3, act)[0]
    mean = mean_of(3, 0, SIZE)
    covered = torch.zeros(SIZE, dtype=torch.bool)
    assert [tuple(matrix.of(mean).shape) for matrix in compression.matrices] == [(8, 27), (11, 20), (11, 40)]
    for matrix, start in zip(compression.matrices, starts, strict=True):
        m, q = matrix.of(mean).numpy(), start.numpy()
        a = m @ q
        np.testing.assert_allclose(matrix.of(found).numpy(), a @ np.linalg.pinv(a) @ m, atol=1e-12)
        covered[matrix.begin : matrix.end] = True
    torch.testing.assert_close(found[~covered], mean[~covered], rtol=0, atol=1e-15)
    assert int((~covered).sum()) == 8 + 11 + 40 + 1


def test_powersgd_warmed_up_comes_to_the_best_factors() -> None:
    """On one and the same gradient, without what was lost: the power iteration converges to the singular vectors."""

    def act(wire: Peer) -> tuple[PowerSGD, Tensor]:
        flat = make_flat()
        compression = PowerSGD(flat, wire, 2)
        for _ in range(400):
            compression.load_state_dict(compression.state_dict() | {"lost": torch.zeros(SIZE)})
            flat.grad.copy_(gradient(wire.rank, 0, SIZE))
            compression.mean_(flat.grad)
        return compression, flat.grad

    compression, found = meet(2, act)[0]
    mean = mean_of(2, 0, SIZE)
    for matrix in compression.matrices:
        rest = torch.linalg.svdvals(matrix.of(mean))[2:].norm()
        torch.testing.assert_close((matrix.of(found) - matrix.of(mean)).norm(), rest, rtol=1e-6, atol=0)


def test_a_layer_without_a_gradient_is_heard_again() -> None:
    zero = torch.zeros(SIZE, dtype=torch.float64)
    found = applied(METHODS["powersgd"], 2, lambda r, u: low_rank(make_flat(), r, u, 2) if u == 3 else zero, 5)
    assert torch.equal(found[0, :3], torch.zeros(3, SIZE, dtype=torch.float64))
    mean = (low_rank(make_flat(), 0, 3, 2) + low_rank(make_flat(), 1, 3, 2)) / 2
    torch.testing.assert_close(found[0].sum(0), mean, rtol=0, atol=1e-10, msg="one update to find it, one to send it")


@pytest.mark.parametrize(
    ("shape", "expected"), [((8, 27), (8, 27, 3)), ((40, 11), (11, 40, 3)), ((4, 3, 2), (4, 6, 0))]
)
def test_factors_are_used_where_they_are_smaller(shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    assert powersgd.sides(shape, 3) == expected
    assert powersgd.sides((17,), 3) == (1, 17, 0)
    assert powersgd.sides((), 3) == (1, 1, 0)


@pytest.mark.parametrize("method", ["fp16", "bf16", "int8"])
def test_what_the_code_can_say_is_exact(method: str) -> None:
    """Even numbers up to 254 whose mean is even as well; every 256 elements have the largest, so int8's scale is 2."""
    g = torch.Generator().manual_seed(0)
    base = 4 * torch.randint(-31, 32, (SIZE,), generator=g).double()
    base[::16] = 254.0
    steps = torch.randint(-1, 2, (SIZE,), generator=g).double() * 2
    steps[::16] = 0.0

    found = applied(METHODS[method], 2, lambda r, u: base + 2 * steps * (1 if r else -1) + 2 * steps, 3)
    assert torch.equal(found[0], (base + 2 * steps).expand(3, -1))


def test_half_precision_is_not_summed_in_half_precision() -> None:
    """60,000 from each of four ranks is infinite in a sum of halves; 1 is lost next to 4,096."""
    values = torch.tensor([[6e4, 4096.0], [6e4, 1.0], [6e4, 1.0], [6e4, -2.0]], dtype=torch.float64)
    found = applied(METHODS["fp16"], 4, lambda r, u: values[r].repeat(SIZE // 2 + 1)[:SIZE])
    assert torch.equal(found[0, 0, :2], torch.tensor([6e4, 1024.0], dtype=torch.float64))


def test_int8_is_off_by_half_a_step_at_most() -> None:
    values = torch.randn(3, 1024, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1e-30], [1.0], [1e30]])
    values[0, :256] = 0.0
    code = Int8().encode(values)
    assert code.shape == (3, 1024 + 4 * 4)
    off = (Int8().decode(code, values.dtype) - values).abs().view(3, 4, 256).amax(2)
    assert (off <= values.abs().view(3, 4, 256).amax(2) / 127 * 0.5001).all()


def test_topk_sends_the_largest() -> None:
    found = applied(METHODS["topk"], 2, lambda rank, update: gradient(rank, update, SIZE))
    count, expected = round(SHARE * SIZE), np.zeros(SIZE)
    for rank in range(2):
        values = gradient(rank, 0, SIZE).numpy()
        for place in sorted(range(SIZE), key=lambda i: -abs(values[i]))[:count]:
            expected[place] += values[place] / 2
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-15)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("method", OWING)
def test_what_is_lost_comes_later(method: str, ranks: int) -> None:
    """The sum of all that was applied and of what is still owed is the sum of the true means."""
    updates = 60

    def act(wire: Peer) -> tuple[Tensor, Tensor]:
        flat = make_flat()
        compression, total = METHODS[method](flat, wire), torch.zeros(SIZE, dtype=torch.float64)
        for update in range(updates):
            flat.grad.copy_(gradient(wire.rank, update, SIZE))
            compression.mean_(flat.grad)
            total += flat.grad
        return total, owed(compression, wire)

    total, debt = meet(ranks, act)[0]
    true = torch.stack([mean_of(ranks, update, SIZE) for update in range(updates)]).sum(0)
    torch.testing.assert_close(total + debt, true, rtol=0, atol=1e-11)
    assert float(debt.norm() / true.norm()) > 1e-5, "something is owed"
    largest = max(mean_of(ranks, update, SIZE).norm() for update in range(updates))
    assert debt.norm() < 0.5 * updates * largest, "it does not grow for ever"


def owed(compression: Compression, wire: Peer) -> Tensor:
    """What the mean gradient is still owed by all ranks. A collective."""
    state = compression.state_dict()
    debt = wire.mean_(state["lost"].flatten())[:SIZE]
    if "lost_of_mean" in state:
        debt = debt + wire.gather(state["lost_of_mean"][0]).flatten()[:SIZE]
    return debt


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_a_number_that_is_not_finite_reaches_every_rank(method: str, bad: float) -> None:
    grads = gradient(0, 0, SIZE)
    grads[300] = bad
    found = applied(METHODS[method], 3, lambda rank, _: grads if rank == 1 else gradient(rank, 0, SIZE))
    assert not found.norm(dim=-1).isfinite().any()


@pytest.mark.parametrize("method", METHODS)
def test_state_round_trip_continues_bitwise(method: str) -> None:
    def act(wire: Peer) -> bool:
        flat = make_flat()
        old, new = METHODS[method](flat, wire), METHODS[method](flat, wire)
        state = None
        for update in range(6):
            if update == 3:
                state = old.state_dict()
                new.load_state_dict(copy.deepcopy(state))
            flat.grad.copy_(gradient(wire.rank, update, SIZE))
            old.mean_(flat.grad)
            if update >= 3:
                other = gradient(wire.rank, update, SIZE)
                new.mean_(other)
                assert torch.equal(other, flat.grad)
        assert state is not None
        assert (state != {}) == (method in OWING)
        return all(not torch.equal(state[name], value) for name, value in old.state_dict().items())

    assert all(meet(2, act)), "what was saved is a copy"


def test_ddp_refuses_bf16_without_nccl() -> None:
    config = Config(sync=SyncConfig(kind="ddp", compress="bf16"))
    with pytest.raises(ConfigError, match=r"--sync.compress bf16: torch's hook .* on cpu; use --sync.kind flat, or"):
        check_device(config, torch.device("cpu"))
    check_device(config, torch.device("cuda"))
    check_device(Config(sync=SyncConfig(compress="bf16")), torch.device("cpu"))
