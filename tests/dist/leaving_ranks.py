"""Run under torchrun by test_leaving: come up, go down, exit, while the failure watch asks the store all the time."""

from __future__ import annotations

import torch

from trainer.runtime import failure
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group

failure._POLL = 1e-6
with process_group(torch.device("cpu"), Launch.read(), 60.0) as ranks:
    ranks.gather(ranks.rank)
