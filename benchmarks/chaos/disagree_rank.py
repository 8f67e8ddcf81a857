"""`torchrun disagree_rank.py WHAT train ...`: rank 1 runs something different from the others."""

from __future__ import annotations

import os
import sys

DIFFERENCES = {"config": "--optim.lr", "code": "code", "shapes": "--env.id", "world": "WORLD_SIZE"}
"""What may differ, and the name under which it has to be reported."""


def main() -> int:
    what, arguments = sys.argv[1], sys.argv[2:]
    if os.environ["RANK"] == "1":
        if what == "config":
            arguments += ["--optim.lr", "0.123"]
        elif what == "shapes":
            arguments += ["--env.id", "toy/Chain"]
        elif what == "world":
            os.environ["WORLD_SIZE"] = "4"
        else:
            from trainer.commands import train

            train.code_version = lambda: {"code": "0" * 12}
    from trainer.__main__ import main as lockstep

    return lockstep(arguments)


if __name__ == "__main__":
    sys.exit(main())
