"""All-reduces that others measured with nccl-tests and published, to check the model against."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from launch.model.cluster import A100_IB, GB, H100_IB, Cluster
from launch.model.fabric import all_reduce

KIB, MIB = 2**10, 2**20
HALF_HDR = replace(A100_IB, inter=11.5 * GB)  # four HDR cards for eight GPUs
ONE_A_NODE = replace(A100_IB, per_node=1)

LAMBDA = "4 H100, one process: dudeperf3ct.github.io/posts/distributed_communication_part1"
NCCL_TESTS_290 = "H100, NDR: github.com/NVIDIA/nccl-tests/issues/290"
NCCL_1244 = "16 H20 (NVLink 4) with NVLink SHARP: github.com/NVIDIA/nccl/issues/1244"
DEEPEP_303 = "8 H20 (NVLink 4): github.com/deepseek-ai/DeepEP/issues/303"
NCCL_583 = "2 A100: github.com/NVIDIA/nccl/issues/583"
NCCL_TESTS_150 = "2 A100 in two nodes, HDR: github.com/NVIDIA/nccl-tests/issues/150"
NCCL_TESTS_119 = "24 A100 in three nodes, half HDR: github.com/NVIDIA/nccl-tests/issues/119"
NCCL_652 = "256 A100 in 32 nodes, half HDR: github.com/NVIDIA/nccl/issues/652"


class Point(NamedTuple):
    """One all-reduce, out of place."""

    cluster: Cluster
    ranks: int
    size: int  # bytes
    us: float
    source: str

    @property
    def predicted(self) -> float:
        return 1e6 * all_reduce(self.cluster, self.ranks, self.size)

    @property
    def ratio(self) -> float:
        """Predicted over published."""
        return self.predicted / self.us


POINTS = (
    Point(H100_IB, 4, KIB, 23.85, LAMBDA),
    Point(H100_IB, 4, 64 * KIB, 24.56, LAMBDA),
    Point(H100_IB, 4, MIB, 28.06, LAMBDA),
    Point(H100_IB, 4, 4 * MIB, 45.05, LAMBDA),
    Point(H100_IB, 4, 8 * MIB, 65.19, LAMBDA),
    Point(H100_IB, 4, 64 * MIB, 326.6, LAMBDA),
    Point(H100_IB, 4, 1024 * MIB, 4525.6, LAMBDA),
    Point(H100_IB, 8, 8, 12.49, DEEPEP_303),
    Point(H100_IB, 8, 4 * KIB, 16.69, DEEPEP_303),
    Point(H100_IB, 8, 128 * MIB, 613.3, NCCL_TESTS_290),
    Point(H100_IB, 8, 1024 * MIB, 4038.8, NCCL_TESTS_290),
    Point(H100_IB, 16, 8 * MIB, 215.3, NCCL_TESTS_290),
    Point(H100_IB, 16, 32 * MIB, 439.3, NCCL_TESTS_290),
    Point(H100_IB, 16, 128 * MIB, 1575.6, NCCL_TESTS_290),
    Point(H100_IB, 16, MIB, 121.8, NCCL_1244),
    Point(H100_IB, 16, 4 * MIB, 127.6, NCCL_1244),
    Point(H100_IB, 16, 8 * MIB, 146.5, NCCL_1244),
    Point(H100_IB, 16, 16 * MIB, 203.0, NCCL_1244),
    Point(H100_IB, 16, 64 * MIB, 467.9, NCCL_1244),
    Point(A100_IB, 2, 32, 10.14, NCCL_583),
    Point(ONE_A_NODE, 2, 8, 19.90, NCCL_TESTS_150),
    Point(HALF_HDR, 24, 75_497_480, 1678.7, NCCL_TESTS_119),
    Point(HALF_HDR, 256, 8, 62.99, NCCL_652),
)


def report() -> str:
    """Return the error of every point, and the median."""
    errors = sorted(abs(point.ratio - 1) for point in POINTS)
    lines = [
        f"{point.ranks:>5} {point.size:>12,} {point.us:>10,.1f} {point.predicted:>10,.1f} {point.ratio - 1:>+6.0%}  "
        f"{point.source}"
        for point in POINTS
    ]
    head = f"{'ranks':>5} {'bytes':>12} {'published':>10} {'model, us':>10} {'error':>6}"
    return "\n".join([head, *lines, f"median of the errors {errors[len(errors) // 2]:.0%}, largest {errors[-1]:.0%}"])
