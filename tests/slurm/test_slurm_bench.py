"""The scaling benchmark's job: one measurement per number of nodes, with a benchmark that only identifies itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cluster import Cluster
from jobs import Job, launch

BENCHMARK = """
import os, sys
from pathlib import Path

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
world, rank = os.environ["WORLD_SIZE"], os.environ["RANK"]
Path(options["--out"], f"{world}-{rank}-of-{options['--ranks']}-{options['--strategies']}").touch()
sys.exit(world == options.get("--breaks"))
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("breaks", ["", "1"], ids=["whole", "one node fails"])
def test_every_number_of_nodes_is_measured(breaks: str, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "scaling.py").write_text(BENCHMARK)
    more = ("--", "--strategies", "ddp", "--breaks", breaks) if breaks else ()
    said = launch(cluster, "bench", "--nodes", "2", "--cpus-per-rank", "1", *more, cwd=tmp_path)
    found = re.match(r"job (\d+); log: (\S+); results: (\S+)", said)
    assert found, said
    out = tmp_path / found[3]
    job = Job(cluster, found[1], out, tmp_path / found[2])
    job.wait("FAILED" if breaks else "COMPLETED")
    assert {path.name for path in out.glob("*-of-*")} == {"1-0-of-1-ddp", "2-0-of-2-ddp", "2-1-of-2-ddp"}
    last = "batch: failed on 1 node(s): " if breaks else "batch: measured on 1 2 node(s): runs/scaling"
    assert job.said.splitlines()[-1].startswith(last)
