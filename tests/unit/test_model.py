"""The model of scaling against closed forms, against the trainer's own counting, and against published measurements."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.simulate import published
from launch.model import collectives, fabric
from launch.model.advice import CANDIDATES
from launch.model.cluster import A100_IB, CLUSTERS, H100_IB, THIS_MACHINE, Cluster
from launch.model.collectives import Link
from launch.model.predict import COMM_FACTOR, PARTS, faster, predict, predict_range
from launch.model.stragglers import expected_maximum, slowest
from launch.model.strategies import Setting, Strategy, exchange, factors, neighbours
from launch.model.work import OTHER, Alone, Counts, Load, alone, free_batch

LINK = Link(latency=5e-6, bandwidth=2e10)
SIZES = (8.0, 1e4, 1e6, 1e9)
RANKS = (2, 3, 4, 8, 64, 4096)
COUNTS = Counts(
    shapes=((512, 3136), (512,), (18, 512), (18,)),
    update_operations=90,
    update_flops=7e7,
    step_operations=70,
    step_flops=2e7,
    env=3e-4,
    parallel=True,
)
LOAD = Load(1_000_000, num_envs=8, batch=32, updates_per_env_step=0.25, target_every=8_000, weak=True)
STRATEGIES = [strategy for strategy, *_ in CANDIDATES]
IDS = [strategy.name for strategy in STRATEGIES]


@pytest.mark.parametrize("p", RANKS)
@pytest.mark.parametrize("size", SIZES)
def test_closed_forms(p: int, size: float) -> None:
    alpha, beta = LINK
    assert collectives.p2p(size, LINK) == pytest.approx(alpha + size / beta)
    assert collectives.reduce_scatter(p, size, LINK) == pytest.approx((p - 1) * alpha + (p - 1) / p * size / beta)
    assert collectives.all_gather(p, size, LINK) == pytest.approx((p - 1) * (alpha + size / (p * beta)))
    assert collectives.ring_all_reduce(p, size, LINK) == pytest.approx(2 * (p - 1) * (alpha + size / (p * beta)))
    depth = math.ceil(math.log2(p))
    assert collectives.tree_all_reduce(p, size, LINK) == pytest.approx(2 * depth * alpha + 2 * size / beta)
    assert collectives.broadcast(p, size, LINK) == pytest.approx(depth * alpha + size / beta)


def test_hierarchical_closed_form() -> None:
    """4 nodes of 8, sizes at which the ring is the faster one across nodes."""
    intra, inter, size = Link(1e-6, 4e11), Link(1e-5, 5e10), 1e9
    within = 2 * 7 * (1e-6 + size / 8 / 4e11)
    across = 2 * 3 * (1e-5 + size / 8 / 4 / 5e10)
    assert collectives.hierarchical_all_reduce(8, 4, size, intra, inter) == pytest.approx(within + across)


def test_hierarchy_of_one_level_is_that_level() -> None:
    other = Link(1.0, 1.0)
    assert collectives.hierarchical_all_reduce(1, 4, 1e8, other, LINK) == collectives.best_all_reduce(4, 1e8, LINK)
    assert collectives.hierarchical_all_reduce(4, 1, 1e8, LINK, other) == collectives.ring_all_reduce(4, 1e8, LINK)


def test_small_messages_take_the_tree_and_large_ones_the_ring() -> None:
    assert collectives.best_all_reduce(64, 8, LINK) == collectives.tree_all_reduce(64, 8, LINK)
    assert collectives.best_all_reduce(64, 1e9, LINK) == collectives.ring_all_reduce(64, 1e9, LINK)


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
@pytest.mark.parametrize("collective", [fabric.all_reduce, fabric.half, fabric.broadcast])
def test_collectives_grow_with_size_and_ranks(cluster: Cluster, collective: object) -> None:
    assert callable(collective)
    sizes = [collective(cluster, 16, 10.0**k) for k in range(10)]
    assert sizes == sorted(sizes)
    ranks = [collective(cluster, 2**k, 1e6) for k in range(13)]
    assert ranks[0] == 0.0
    assert all(b > 0.95 * a for a, b in pairwise(ranks[1:])), ranks
    assert ranks[-1] > ranks[1]


def test_no_algorithm_beats_the_network_between_nodes() -> None:
    """One GPU per node: 2 (p-1)/p of the bytes have to cross its NIC, however small the latencies are."""
    quick = replace(H100_IB, per_node=1, protocols=tuple(p._replace(share=1.0) for p in H100_IB.protocols))
    for ranks in (2, 4, 64):
        assert fabric.all_reduce(quick, ranks, 1e9) > 2 * (ranks - 1) / ranks * 1e9 / quick.inter


def test_expected_maximum_of_exponentials_is_the_harmonic_number() -> None:
    """A spread of 1 is the exponential distribution."""
    for ranks in (2, 4, 16, 256):
        harmonic = sum(1 / k for k in range(1, ranks + 1))
        assert slowest(ranks, 1.0) == pytest.approx(harmonic, rel=0.02)


def test_expected_maximum_against_simulation() -> None:
    generator = random.Random(3)
    draws = tuple(sorted(generator.random() for _ in range(20_000)))
    assert expected_maximum(draws, 1) == pytest.approx(statistics.fmean(draws))
    assert expected_maximum(draws, 9) == pytest.approx(9 / 10, abs=0.01)  # of uniform ones
    assert slowest(1, 0.5) == slowest(64, 0.0) == 1.0


def test_waiting_less_often_averages_luck() -> None:
    """A sum of h times has a spread smaller by sqrt(h)."""
    assert slowest(64, 0.4, updates=16) == pytest.approx(slowest(64, 0.1), rel=0.01)
    waits = [slowest(64, 0.2, updates=h) for h in (1, 4, 16, 64)]
    assert waits == sorted(waits, reverse=True)


def test_neighbours_wait_less_than_all_and_more_than_two() -> None:
    assert slowest(2, 0.2) < neighbours(64, 0.2) < slowest(64, 0.2)
    assert neighbours(64, 0.0) == 1.0


@pytest.mark.parametrize("strategy", STRATEGIES, ids=IDS)
def test_alone_there_is_no_communication(strategy: Strategy) -> None:
    one = predict(LOAD, COUNTS, H100_IB, 1, strategy)
    assert one.parts["sync"] == one.parts["wait"] == one.sent == 0.0
    assert one.efficiency == pytest.approx(1.0)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=IDS)
def test_a_prediction_adds_up(strategy: Strategy) -> None:
    one = predict(LOAD, COUNTS, H100_IB, 64, strategy)
    assert tuple(one.parts) == PARTS
    assert all(value >= 0 for value in one.parts.values())
    assert one.parts["other"] == pytest.approx(OTHER * (one.parts["act"] + one.parts["env"] + one.parts["learn"]))
    assert sum(one.share(part) for part in PARTS) == pytest.approx(1.0)
    assert one.env_steps_per_update == 4 * 64
    assert one.env_steps_per_s * one.hours * 3600 == pytest.approx(1_000_000)
    assert one.cost == pytest.approx(one.hours * 64 * H100_IB.price)
    assert 0 < one.efficiency < 1


def test_flat_is_compute_and_one_all_reduce() -> None:
    """By hand, on a cluster where nothing is random and the target stands still."""
    cluster, load = replace(H100_IB, spread=0.0), replace(LOAD, target_every=math.inf)
    one = predict(load, COUNTS, cluster, 64, Strategy())
    size = 4 * (512 * 3136 + 512 + 18 * 512 + 18)
    learn, act = 90 * cluster.launch, 70 * cluster.launch / 2  # two updates per step
    assert COUNTS.size == size
    assert one.parts["learn"] == pytest.approx(learn)
    assert one.parts["act"] == pytest.approx(act)
    assert one.parts["env"] == 0.0  # 14 threads are done while the device learns
    assert one.parts["sync"] == pytest.approx(cluster.call + fabric.all_reduce(cluster, 64, size))
    assert one.sent == pytest.approx(2 * size * 63 / 64)


@pytest.mark.parametrize("ranks", [2, 8, 64, 1024])
def test_a_period_amortises(ranks: int) -> None:
    every = predict(LOAD, COUNTS, H100_IB, ranks, Strategy("local_sgd", period=1))
    rare = predict(LOAD, COUNTS, H100_IB, ranks, Strategy("local_sgd", period=16))
    setting = Setting(H100_IB, ranks, COUNTS, Alone(0.0, 0.0, 0.0))
    often, seldom = (exchange(Strategy("local_sgd", period=h), setting) for h in (1, 16))
    assert seldom.seconds == pytest.approx(often.seconds / 16)
    assert seldom.sent == pytest.approx(often.sent / 16)
    assert rare.efficiency > every.efficiency
    assert every.parts["sync"] == pytest.approx(predict(LOAD, COUNTS, H100_IB, ranks, Strategy()).parts["sync"])


def test_overlap_hides_the_exchange_up_to_the_computing() -> None:
    slow = faster(H100_IB, 1.0, 1 / 1000)
    setting = Setting(slow, 64, COUNTS, Alone(0.001, 0.0, 0.002))
    flat, late = exchange(Strategy(), setting), exchange(Strategy("overlap"), setting)
    assert flat.seconds - late.seconds == pytest.approx(0.003)
    hidden = exchange(Strategy("overlap"), Setting(H100_IB, 64, COUNTS, Alone(0.001, 0.0, 0.002)))
    assert hidden.seconds == pytest.approx(H100_IB.call)


def test_the_asynchronous_server_is_bound_by_its_link() -> None:
    one = predict(LOAD, COUNTS, H100_IB, 512, Strategy("server", asynchronous=True))
    assert one.seconds_per_update == pytest.approx(2 * 511 * COUNTS.size / H100_IB.inter, rel=0.1)
    eight = predict(LOAD, COUNTS, H100_IB, 512, Strategy("server", asynchronous=True, servers=8))
    assert eight.env_steps_per_s > 5 * one.env_steps_per_s


def test_bytes_of_compression() -> None:
    setting = Setting(H100_IB, 4, COUNTS, Alone(0.0, 0.0, 0.0))
    ring = 2 * COUNTS.size * 3 / 4
    sent = {name: exchange(Strategy(compress=name), setting).sent for name in ("none", "fp16", "int8", "topk")}
    assert sent["none"] == pytest.approx(ring)
    assert sent["fp16"] == pytest.approx(ring / 2)
    assert sent["int8"] == pytest.approx(ring / 4 * (1 + 4 / 256))
    assert sent["topk"] == pytest.approx(2 * 3 * 4 * round(0.01 * COUNTS.parameters))


def test_powersgd_sends_what_the_trainer_sends() -> None:
    from torch import nn

    from trainer.runtime.spans import Spans
    from trainer.sync.compress import PowerSGD
    from trainer.sync.flat import FlatParameters
    from trainer.sync.wire import Wire

    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(32, 16), nn.Linear(16, 3))
    theirs = PowerSGD(FlatParameters(net), Wire(0, 1, Spans()), 4)
    counts = replace(COUNTS, shapes=tuple(tuple(p.shape) for p in net.parameters()))
    first, second, matrices = factors(counts, 4)
    assert (first, second) == (theirs._first.nbytes, theirs._second.nbytes)
    assert matrices == len(theirs.matrices)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=IDS)
def test_efficiency_falls_as_ranks_grow(strategy: Strategy) -> None:
    values = [predict(LOAD, COUNTS, H100_IB, 2**k, strategy).efficiency for k in range(13)]
    assert all(b <= 1.02 * a for a, b in pairwise(values)), values


def test_strong_scaling_divides_the_work_but_not_the_launches() -> None:
    load = replace(LOAD, weak=False, num_envs=64, batch=4096)
    one, four = (alone(load, COUNTS, H100_IB, ranks) for ranks in (1, 4))
    assert one.learn == pytest.approx(4096 * 7e7 / H100_IB.flops)
    assert four.learn == pytest.approx(one.learn / 4)
    many = alone(load, COUNTS, H100_IB, 64)
    assert many.learn == pytest.approx(90 * H100_IB.launch)
    assert load.divides(64)
    assert not load.divides(48)


def test_ranks_share_the_cores_of_a_machine() -> None:
    two_cores = replace(THIS_MACHINE, host_cores=2)
    free, crowded = (alone(LOAD, COUNTS, cluster, 4) for cluster in (THIS_MACHINE, two_cores))
    assert crowded.learn == pytest.approx(2 * free.learn)
    assert alone(LOAD, COUNTS, two_cores, 2).learn == pytest.approx(free.learn)


def test_a_free_batch_takes_no_longer() -> None:
    batch = free_batch(COUNTS, H100_IB)
    small, large, larger = (alone(replace(LOAD, batch=b), COUNTS, H100_IB, 1).learn for b in (1, batch, 4 * batch))
    assert small == large < larger


def test_the_range_holds_the_expectation() -> None:
    found = predict_range(LOAD, COUNTS, A100_IB, 64, Strategy())
    assert found.fast.hours < found.expected.hours < found.slow.hours
    assert found.slow.hours / found.fast.hours == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_profiles_say_where_their_numbers_come_from(cluster: Cluster) -> None:
    assert cluster.sources
    assert cluster.inter <= cluster.intra


def test_published_all_reduces(capsys: pytest.CaptureFixture[str]) -> None:
    """Every point is printed (pytest -s); one is known to be far off: a forced algorithm at 1 MB."""
    with capsys.disabled():
        print(f"\n{published.report()}")
    off = [point for point in published.POINTS if not 1 / COMM_FACTOR <= point.ratio <= COMM_FACTOR]
    assert [(point.source, point.size) for point in off] == [(published.NCCL_1244, published.MIB)]
    assert statistics.median(abs(point.ratio - 1) for point in published.POINTS) < 0.2
