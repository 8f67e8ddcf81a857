"""The cluster that all tests of this folder share, and an undisturbed run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, lacks, running
from jobs import ARGUMENTS, PATIENCE
from launching import run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if told := lacks():
        pytest.skip(told)
    with running(tmp_path_factory.mktemp("slurm")) as up:
        yield up


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `jobs.ARGUMENTS` on two ranks, by torchrun on this machine, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = ["train", *ARGUMENTS, "--log.dir", str(folder), "--log.name", "run"]
    run(arguments, folder, ranks=2, launcher="torchrun", deadline=PATIENCE)
    return folder / "run"
