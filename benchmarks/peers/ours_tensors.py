"""Lockstep whose environments are tensors, answering the benchmarks' requests as its peers do."""

from __future__ import annotations

from ours import Training, main


class TensorTraining(Training):
    """The same run, environments included in what is compiled."""

    backend = "torch"


if __name__ == "__main__":
    main(TensorTraining)
