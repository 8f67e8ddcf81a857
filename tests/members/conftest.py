"""What tests of the members share: a rank that is alone, and runs to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from teachers import make_library

from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group


@pytest.fixture(scope="module")
def alone() -> Iterator[Ranks]:
    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def library(alone: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_library(tmp_path_factory.mktemp("library"), alone)
