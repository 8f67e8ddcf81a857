"""Clusters as published: what links, GPUs and cores do, and who says so.

Bandwidths are what a collective attains in one direction per GPU, not the line rate. Latencies are those of NCCL's own
tuning model; a message goes by the faster of two protocols: LL, which sends a flag with every word (low latency, a
quarter of the bandwidth), or Simple.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from launch.model.collectives import Link

US, GB = 1e-6, 1e9


class Protocol(NamedTuple):
    """One way to send a message: the latency of a hop within and between nodes [s], and its share of the bandwidth.

    trees: whether trees over all GPUs pay off; in Simple their chunks of 256 kB take 28-50 us a hop to fill.
    """

    start: float  # of the collective [s]
    intra: float
    inter: float
    share: float
    trees: bool = False


NCCL = (Protocol(11 * US, 0.75 * US, 4.5 * US, 0.25, trees=True), Protocol(8.4 * US, 3.4 * US, 14 * US, 1.0))
NCCL_PCIE = (Protocol(11 * US, 1.0 * US, 4.5 * US, 0.25, trees=True), Protocol(8.4 * US, 5.7 * US, 14 * US, 1.0))
NCCL_SOURCE = (
    "hop latencies: NVIDIA/nccl src/graph/tuning.cc (baseLat, hwLat; LL at a quarter of the bandwidth), start of a "
    "collective: set to nccl-tests at 8 bytes (nccl-tests#150, NVIDIA/nccl#652)"
)


@dataclass(frozen=True)
class Cluster:
    """What a plan needs to know about machines.

    intra, inter: attained bandwidth per GPU and direction [bytes/s]. call: what the host pays to start a collective
    [s]. launch: what the host pays for one tensor operation [s]. flops: sustained on small convolutions and matrices
    [1/s]. cores: CPU cores per rank. env: time of an environment step relative to the core where the counts were
    taken. spread: standard deviation over mean of the time of an update on one rank. factor: how far off the compute
    times may be, either way. price: of a GPU hour [USD].
    """

    name: str
    per_node: int
    intra: float
    inter: float
    protocols: tuple[Protocol, ...]
    call: float
    launch: float
    flops: float
    cores: float
    spread: float
    factor: float
    price: float
    sources: tuple[str, ...]
    most: int = 4096  # ranks
    env: float = 1.0
    host_cores: int | None = None  # that all ranks share; None: `cores` for each
    asynchronous: bool = True  # the host runs ahead of the device

    def link(self, protocol: Protocol, *, across: bool) -> Link:
        """Return the link of a hop within a node, or across nodes."""
        if across:
            return Link(protocol.inter, self.inter * protocol.share)
        return Link(protocol.intra, self.intra * protocol.share)


_EAGER = (
    "launch: 4-6 us for a kernel through the driver (CUDA), about twice with PyTorch's eager dispatch; assumed 10 us"
)

H100_IB = Cluster(
    name="h100-ib",
    per_node=8,
    intra=370 * GB,
    inter=47 * GB,
    protocols=NCCL,
    call=20 * US,
    launch=10 * US,
    flops=10e12,
    cores=14,
    spread=0.05,
    factor=2.0,
    price=3.00,
    sources=(
        "NVLink 4: 900 GB/s, 450 each way (NVIDIA H100 datasheet); NCCL attains 370 (nccl-tests#212)",
        "NDR InfiniBand 400 Gb/s per GPU; NCCL attains 46-48 GB/s per NIC (nccl-tests#290)",
        NCCL_SOURCE,
        "flops: 15% of 67 TFLOP/s float32 (NVIDIA H100 datasheet), assumed for small layers",
        _EAGER,
        "cores: DGX H100, 112 for 8 GPUs",
        "price: on-demand 2.49-3.99 USD, early 2026 (pricegpu.pages.dev/blog/h100-vs-a100-cloud-price)",
    ),
)
A100_IB = Cluster(
    name="a100-ib",
    per_node=8,
    intra=235 * GB,
    inter=23 * GB,
    protocols=NCCL,
    call=20 * US,
    launch=11 * US,
    flops=4e12,
    cores=16,
    spread=0.05,
    factor=2.0,
    price=2.00,
    sources=(
        "NVLink 3: 600 GB/s, 300 each way (NVIDIA A100 datasheet); NCCL's own cap 235 (src/graph/tuning.cc)",
        "HDR InfiniBand 200 Gb/s per GPU, 92% of it attained (NVIDIA/nccl#652: 96 of 100 GB/s per node)",
        NCCL_SOURCE,
        "flops: 20% of 19.5 TFLOP/s float32 (NVIDIA A100 datasheet), assumed for small layers",
        _EAGER,
        "cores: DGX A100, 128 for 8 GPUs",
        "price: on-demand 1.49-2.49 USD, early 2026 (pricegpu.pages.dev/blog/h100-vs-a100-cloud-price)",
    ),
)
WORKSTATION = Cluster(
    name="workstation-pcie",
    per_node=4,
    intra=12 * GB,
    inter=1.1 * GB,
    protocols=NCCL_PCIE,
    call=20 * US,
    launch=8 * US,
    flops=10e12,
    cores=8,
    spread=0.08,
    factor=2.0,
    price=0.40,
    sources=(
        "PCIe 4.0 x16: 31.5 GB/s each way; without peer-to-peer a message goes through host memory: assumed 12 GB/s",
        "between workstations: 10 Gb/s Ethernet, 90% of it",
        NCCL_SOURCE,
        "flops: 12% of 82.6 TFLOP/s float32 (NVIDIA RTX 4090), assumed for small layers",
        _EAGER,
        "price: assumed",
    ),
)
THIS_MACHINE = Cluster(
    name="this-machine",
    per_node=64,
    intra=1.5 * GB,
    inter=1.5 * GB,
    protocols=(Protocol(0.0, 200 * US, 200 * US, 1.0),),
    call=50 * US,
    launch=5 * US,
    flops=2e10,
    cores=1,
    spread=0.15,
    factor=2.0,
    price=0.05,
    sources=(
        "gloo over loopback: benchmarks/results/comm.jsonl, bare all-reduce of 2 ranks at 44 kB and 6.7 MB",
        "one core a rank: benchmarks/results/step.jsonl; better: fit it, python -m benchmarks.simulate --rows FILE",
        "price: assumed",
    ),
    asynchronous=False,
)

CLUSTERS = {cluster.name: cluster for cluster in (H100_IB, A100_IB, WORKSTATION, THIS_MACHINE)}


def priced(cluster: Cluster, price: float | None) -> Cluster:
    return cluster if price is None else replace(cluster, price=price)
