"""Ports to meet at."""

from __future__ import annotations

import socket

import pytest

from benchmarks import ports


def test_they_are_free_and_differ_and_the_kernel_gives_them_to_nobody() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    with socket.create_server(("127.0.0.1", 0)) as anywhere:
        assert max(found) < int(ports.RANGE.read_text().split()[0]) <= anywhere.getsockname()[1]
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()


def test_one_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = ports.free_ports(2)
    drawn = iter([taken, taken, free])
    monkeypatch.setattr(ports.random.SystemRandom, "randrange", lambda *_: next(drawn))
    with socket.create_server(("", taken)):
        assert ports.free_port() == free
