"""How long a collective takes in the alpha-beta model: a message costs a latency and its bytes over the bandwidth.

Pure formulas for one kind of link (Hockney 1994; Thakur, Rabenseifner & Gropp 2005). p: ranks; size: bytes that every
rank holds before (all-reduce, reduce-scatter, broadcast) or after it (all-gather). Seconds.
"""

from __future__ import annotations

from typing import NamedTuple


class Link(NamedTuple):
    """latency: of one message [s]; bandwidth: in one direction, as a collective attains it [bytes/s]."""

    latency: float
    bandwidth: float


def p2p(size: float, link: Link) -> float:
    """One message from one rank to another."""
    return link.latency + size / link.bandwidth


def reduce_scatter(p: int, size: float, link: Link) -> float:
    """Ring: p - 1 steps, in each of which every rank passes on a p-th."""
    return (p - 1) * p2p(size / p, link)


def all_gather(p: int, size: float, link: Link) -> float:
    """Ring: as reduce-scatter, backwards."""
    return (p - 1) * p2p(size / p, link)


def ring_all_reduce(p: int, size: float, link: Link) -> float:
    """Reduce-scatter, then all-gather: 2 (p-1) (alpha + size / (p beta)) (Patarasuk & Yuan 2009)."""
    return reduce_scatter(p, size, link) + all_gather(p, size, link)


def tree_all_reduce(p: int, size: float, link: Link) -> float:
    """Two pipelined binary trees, up and down: latency grows with log2 p (Sanders, Speck & Traeff 2009)."""
    return 0.0 if p == 1 else 2 * (levels(p) * link.latency + size / link.bandwidth)


def broadcast(p: int, size: float, link: Link) -> float:
    """One rank's bytes to all: the way down of the trees."""
    return tree_all_reduce(p, size, link) / 2


def best_all_reduce(p: int, size: float, link: Link) -> float:
    return min(ring_all_reduce(p, size, link), tree_all_reduce(p, size, link))


def hierarchical_all_reduce(per_node: int, nodes: int, size: float, intra: Link, inter: Link) -> float:
    """Reduce-scatter within a node, all-reduce of each rank's share across nodes, all-gather within the node."""
    across = best_all_reduce(nodes, size / per_node, inter)
    return reduce_scatter(per_node, size, intra) + across + all_gather(per_node, size, intra)


def levels(p: int) -> int:
    """Depth of a binary tree of p ranks: log2 p, rounded up."""
    return (p - 1).bit_length()
