"""python resume_world.py OUT CASES LIBRARY: on these ranks, for each case: 2k steps == k, saved, loaded, k more.

CASES: a JSON file, name -> arguments of `lockstep train`. OUT, by rank 0: name -> what differs on any rank, in words.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from running import build, close, go, resumed, same, state
from teachers import fill

from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group

HALF = 40  # steps


def difference(arguments: list[str], folder: Path, ranks: Ranks) -> str:
    """Say how a run that was saved and loaded in the middle differs from one that was not; empty: in nothing."""
    whole = go(go(build(arguments, folder / "whole", ranks), HALF), HALF)  # a row is logged where a run is saved
    first = go(build(arguments, folder / "parts", ranks), HALF)
    assert first.written()
    second = go(resumed(build(arguments, folder / "parts", ranks), folder / "parts"), HALF)
    try:
        if not second.learner.updates == whole.learner.updates > first.learner.updates > 0:
            return f"updates: {whole.learner.updates}, {first.learner.updates} and {second.learner.updates}"
        expected, found = state(whole), state(second)
        if expected.keys() != found.keys():
            return f"fields: {sorted(expected.keys() ^ found.keys())}"
        return ", ".join(name for name, value in expected.items() if not same(value, found[name]))
    finally:
        close(whole, first, second)


if __name__ == "__main__":
    out, cases, library = map(Path, sys.argv[1:])
    told: dict[str, str] = {}
    with process_group(torch.device("cpu"), Launch.read(), 60.0) as ranks:
        for name, arguments in json.loads(cases.read_text()).items():
            shared = Path(ranks.gather(tempfile.mkdtemp() if ranks.rank == 0 else None)[0])
            try:
                said = difference(list(fill(arguments, library)), shared, ranks)
            except Exception:
                print(f"{name}:", flush=True)
                traceback.print_exc()
                raise
            votes = [f"rank {rank}: {vote}" for rank, vote in enumerate(ranks.gather(said)) if vote]
            told[name] = "; ".join(votes)
            shutil.rmtree(shared, ignore_errors=True) if ranks.rank == 0 else None
        if ranks.rank == 0:
            out.write_text(json.dumps(told))
