"""Where a run's numbers go: live line, metrics.jsonl, TensorBoard, Weights & Biases; curve and GIF at the end."""

from trainer.log.make import make_logger

__all__ = ["make_logger"]
