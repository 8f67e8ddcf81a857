"""Collectives of p ranks on a cluster: the fastest algorithm and protocol, as NCCL chooses, on the links they cross."""

from __future__ import annotations

from launch.model import collectives
from launch.model.cluster import Cluster, Protocol
from launch.model.collectives import Link


def shape(cluster: Cluster, ranks: int) -> tuple[int, int]:
    """Return ranks per node and nodes; nodes are filled one after the other."""
    per_node = min(ranks, cluster.per_node)
    return per_node, -(-ranks // per_node)


def all_reduce(cluster: Cluster, ranks: int, size: float) -> float:
    """Seconds for an all-reduce of `size` bytes."""
    if ranks == 1:
        return 0.0
    return min(protocol.start + _all_reduce(cluster, protocol, ranks, size) for protocol in cluster.protocols)


def _all_reduce(cluster: Cluster, protocol: Protocol, ranks: int, size: float) -> float:
    intra, inter = cluster.link(protocol, across=False), cluster.link(protocol, across=True)
    per_node, nodes = shape(cluster, ranks)
    hierarchical = collectives.hierarchical_all_reduce(per_node, nodes, size, intra, inter)
    return min(hierarchical, _tree(per_node, nodes, size, intra, inter)) if protocol.trees else hierarchical


def _tree(per_node: int, nodes: int, size: float, intra: Link, inter: Link) -> float:
    """Trees over nodes whose leaves are trees over the GPUs of a node; each GPU of a node has a NIC for its share."""
    latency = collectives.levels(per_node) * intra.latency + collectives.levels(nodes) * inter.latency
    return 2 * (latency + size / min(intra.bandwidth, per_node * inter.bandwidth))


def half(cluster: Cluster, ranks: int, size: float) -> float:
    """Seconds for a reduce-scatter or an all-gather: a ring over all ranks, or one within and one across nodes."""
    if ranks == 1:
        return 0.0
    return min(protocol.start + _half(cluster, protocol, ranks, size) for protocol in cluster.protocols)


def _half(cluster: Cluster, protocol: Protocol, ranks: int, size: float) -> float:
    per_node, nodes = shape(cluster, ranks)
    intra, inter = cluster.link(protocol, across=False), cluster.link(protocol, across=True)
    within = collectives.reduce_scatter(per_node, size, intra)
    return within + collectives.reduce_scatter(nodes, size / per_node, inter)


def broadcast(cluster: Cluster, ranks: int, size: float) -> float:
    """Seconds for rank 0's bytes to reach all."""
    if ranks == 1:
        return 0.0
    per_node, nodes = shape(cluster, ranks)
    return min(
        protocol.start
        + collectives.broadcast(nodes, size, cluster.link(protocol, across=True))
        + collectives.broadcast(per_node, size, cluster.link(protocol, across=False))
        for protocol in cluster.protocols
    )


def p2p(cluster: Cluster, ranks: int, size: float) -> float:
    """Seconds for a message to another rank, across nodes where there are several."""
    across = shape(cluster, ranks)[1] > 1
    links = ((protocol.start, cluster.link(protocol, across=across)) for protocol in cluster.protocols)
    return min(start + collectives.p2p(size, link) for start, link in links)
