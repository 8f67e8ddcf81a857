"""Lockstep with environments written in PyTorch, answering the benchmarks' requests as its peers do."""

from __future__ import annotations

from ours import Training, main


class TensorTraining(Training):
    """The same run, with environments compiled as well."""

    backend = "torch"


if __name__ == "__main__":
    main(TensorTraining)
