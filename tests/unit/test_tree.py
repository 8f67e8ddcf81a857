"""The sum tree against a list that is walked from its first entry to its last."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.replay import SumTree

CPU = torch.device("cpu")
ENDS = [0.0, 1e-300, 2**-53, 0.25, 0.5, 1 - 2**-53, 1.0]
PRIORITY = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-8, 1e8), st.floats(0, 1))


def filled(priorities: list[list[float]], bits: int = 2) -> SumTree:
    """A tree with these priorities, one list per shard."""
    tree = SumTree(len(priorities[0]), len(priorities), CPU, bits)
    for shard, values in enumerate(priorities):
        leaf = torch.arange(len(values)) + shard * tree.size
        tree.set(leaf, torch.tensor(values, dtype=torch.float64))
    return tree


def assert_is_where_the_share_is_reached(values: list[float], share: float, leaf: int) -> None:
    """The naive walk: of the leaves that are not 0, the one whose part of the sum holds this share of it.

    Where two of those meet, rounding may carry a share over, and any living leaf may stand in for it.
    """
    total = math.fsum(values)
    assert values[leaf] > 0
    upto = [math.fsum(values[: i + 1]) for i in range(len(values))]
    if all(abs(share * total - edge) > 1e-12 * total for edge in upto):
        assert leaf == next(i for i, edge in enumerate(upto) if edge > share * total)


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, int, list[list[tuple[int, int, float]]]]:
    """(shards, leaves, log2 of the fan, batches of (shard, leaf, priority))."""
    shards, leaves, bits = draw(st.integers(1, 3)), draw(st.integers(1, 70)), draw(st.integers(1, 3))
    update = st.tuples(st.integers(0, shards - 1), st.integers(0, leaves - 1), PRIORITY)
    return shards, leaves, bits, draw(st.lists(st.lists(update, min_size=1, max_size=12), min_size=1, max_size=8))


@settings(max_examples=120, deadline=None)
@given(histories(), st.lists(st.floats(0, 1), max_size=6))
def test_equals_a_list(history: tuple[int, int, int, list[list[tuple[int, int, float]]]], shares: list[float]) -> None:
    shards, leaves, bits, batches = history
    tree = SumTree(leaves, shards, CPU, bits)
    naive = [[0.0] * leaves for _ in range(shards)]
    for batch in batches:
        for shard, leaf in {(shard, leaf) for shard, leaf, _ in batch}:
            naive[shard][leaf] = max(p for s, i, p in batch if (s, i) == (shard, leaf))
        index = torch.tensor([shard * tree.size + leaf for shard, leaf, _ in batch])
        tree.set(index, torch.tensor([p for _, _, p in batch], dtype=torch.float64))
        for shard, values in enumerate(naive):
            assert tree.leaves[shard, :leaves].tolist() == values
            assert tree.leaves[shard, leaves:].sum() == 0
            assert tree.sums[shard].sum().item() == pytest.approx(math.fsum(values), rel=1e-13)
    asked = ENDS + shares
    leaf = tree.find(torch.tensor([asked] * shards, dtype=torch.float64))
    for shard, values in enumerate(naive):
        if sum(values) == 0:
            continue
        found = (leaf[shard] - shard * tree.size).tolist()
        for share, at in zip(asked, found, strict=True):
            assert_is_where_the_share_is_reached(values, share, at)
    reached = tree.share(leaf.flatten()).view_as(leaf)
    for shard, values in enumerate(naive):
        if sum(values) > 0:
            expected = [values[i] / math.fsum(values) for i in (leaf[shard] - shard * tree.size).tolist()]
            assert reached[shard].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("leaves", [1, 2, 15, 16, 17, 63, 64, 65, 1000])
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_a_single_living_leaf_is_found_wherever_it_stands(leaves: int, bits: int) -> None:
    for alive in {0, leaves // 2, leaves - 1}:
        tree = SumTree(leaves, 1, CPU, bits)
        tree.set(torch.tensor([alive]), torch.tensor([1e-7], dtype=torch.float64))
        leaf = tree.find(torch.tensor([ENDS], dtype=torch.float64))
        assert leaf.unique().tolist() == [alive]
        assert tree.share(leaf[0]).tolist() == [1.0] * len(ENDS)


@pytest.mark.parametrize("leaves", [1, 7, 100, 1025])
def test_equal_priorities_are_found_in_turn(leaves: int) -> None:
    tree = filled([[0.7] * leaves], bits=5)
    middle = (torch.arange(leaves, dtype=torch.float64)[None] + 0.5) / leaves
    assert torch.equal(tree.find(middle), torch.arange(leaves)[None])


@pytest.mark.parametrize("leaves", [1, 64, 4096])
def test_where_two_leaves_meet_the_second_one_is_found(leaves: int) -> None:
    tree = filled([[0.0, 1.0] * leaves])
    edges = torch.arange(leaves, dtype=torch.float64)[None] / leaves  # exact
    assert torch.equal(tree.find(edges), 2 * torch.arange(leaves)[None] + 1)


def test_the_larger_of_two_new_priorities_counts_in_any_order() -> None:
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        tree = filled([[9.0, 9.0, 9.0, 9.0, 9.0]])
        leaf, new = torch.tensor([1, 3, 1, 1])[order], torch.tensor([0.5, 4.0, 2.0, 0.0], dtype=torch.float64)[order]
        tree.set(leaf, new)
        assert tree.leaves[0, :5].tolist() == [9.0, 2.0, 9.0, 4.0, 9.0], "and the old one does not count"


def test_the_dummy_takes_what_belongs_to_nobody() -> None:
    tree = filled([[1.0, 2.0, 3.0]])
    tree.set(torch.tensor([tree.dummy] * 4), torch.zeros(4, dtype=torch.float64))
    assert tree.leaves[0].tolist()[:4] == [1.0, 2.0, 3.0, 0.0]
    assert tree.sums.sum() == 6


@pytest.mark.parametrize("seed", range(5))
def test_sums_never_drift(seed: int) -> None:
    """Priorities over 30 orders of magnitude, changed thousands of times: bitwise what a fresh tree adds up."""
    rng = torch.Generator().manual_seed(seed)
    tree, leaves = SumTree(5000, 2, CPU), 5000
    for _ in range(150):
        leaf = torch.randint(0, leaves, (64,), generator=rng) + torch.randint(0, 2, (64,), generator=rng) * tree.size
        tree.set(leaf, 10 ** (torch.rand(64, generator=rng, dtype=torch.float64) * 30 - 15))
    fresh = SumTree(leaves, 2, CPU)
    for shard in range(2):
        fresh.load(shard, tree.leaves[shard, :leaves])
    for name in ("leaves", "lower", "sums"):
        assert torch.equal(getattr(tree, name), getattr(fresh, name)), name


@pytest.mark.parametrize("seed", range(20))
def test_nothing_dead_is_found_where_sums_round(seed: int) -> None:
    """Most leaves dead, the others so unequal that the running sums lose digits."""
    rng = torch.Generator().manual_seed(seed)
    value = 10 ** (torch.rand(700, generator=rng, dtype=torch.float64) * 32 - 16)
    value *= torch.rand(700, generator=rng) < 0.1
    value[torch.randint(0, 700, (1,), generator=rng)] = 1.0
    tree = SumTree(700, 1, CPU, 2)
    tree.load(0, value)
    share = torch.cat((torch.rand(4000, generator=rng, dtype=torch.float64), 1 - 2.0 ** -torch.arange(20, 60)))
    assert bool((tree.get(tree.find(share[None])[0]) > 0).all())


@pytest.mark.parametrize("level", ["sums", "lower"])
def test_a_share_that_rounding_carries_too_far_is_replaced(level: str) -> None:
    """As if sums were larger than their parts: beyond the last child there is a dead leaf."""
    tree = filled([[1.0, 2.0, 0.0, 0.0] * 5, [0.0, 3.0, 0.0, 0.0] * 5])
    upper: Tensor = getattr(tree, level)
    upper *= 1.001
    leaf = tree.find(torch.tensor([[0.1, 1.0], [0.1, 1.0]], dtype=torch.float64))
    assert bool((tree.get(leaf.flatten()) > 0).all())
    assert (leaf // tree.size).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_priorities_stay_within_the_tree(bad: float) -> None:
    """A run ends at its next poll; until then nothing may point outside."""
    tree = filled([[1.0, 2.0, 3.0, 4.0]])
    tree.set(torch.tensor([1]), torch.tensor([bad], dtype=torch.float64))
    leaf = tree.find(torch.rand(1, 50, dtype=torch.float64))
    assert 0 <= int(leaf.min()) <= int(leaf.max()) < tree.size


def test_memory() -> None:
    for leaves in (1, 1000, 1023, 1024, 100_000):
        tree = SumTree(leaves, 3, CPU)
        held = sum(level.numel() * level.element_size() for level in (tree.leaves, tree.lower, tree.sums))
        assert held == 3 * SumTree.shard_bytes(leaves)
    assert SumTree.shard_bytes(1_000_000) < 8.3e6
