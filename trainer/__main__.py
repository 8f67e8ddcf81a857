"""Entry point of `lockstep COMMAND ...` or `python -m trainer ...`, alone or under torchrun: dispatch the command."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from trainer.runtime.launched import Launch
from trainer.runtime.orphan import die_with_parent

USAGE = """usage: lockstep COMMAND ...

  train PRESET [--section.field VALUE ...]   train; PRESET may be a config.json   (train PRESET --help: every field)
  train --resume RUN                         continue a run
  check PRESET ... --ranks N                 check at once whether a run works on N ranks
  plan PRESET ... --gpus N --profile NAME    estimate speed and cost on a cluster, and how to set it up
  tune PRESET ...                            the fastest number of environments and threads on this machine, as a config
  evaluate RUN [--episodes N] [--video]      play episodes with a trained agent
  export RUN --format F                      weights as safetensors, torchscript or onnx
  demos RUN --episodes N                     episodes of a trained agent, for others to learn from
  presets [PRESET]                           list the presets, or show one
  doctor [RUN]                               what happened to a run; without RUN, whether this machine can train
  launch WHERE ... -- PRESET ...             on this machine, as a SLURM job, as a sweep: lockstep launch

Without torchrun, `train` starts one rank per GPU of this machine by itself (--ranks N: N processes)."""

COMMANDS = ("train", "check", "plan", "tune", "evaluate", "export", "demos", "presets", "doctor", "launch")
EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; on bad input, print one line to stderr and return 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if Launch.read().by_torchrun:
        die_with_parent(signal.SIGKILL)  # nothing to save yet; once a run has started, it is asked to stop instead
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else EXIT_BAD_INPUT
    name, rest = (arguments[0], arguments[1:]) if arguments[0] in COMMANDS else ("train", arguments)
    try:
        return _run(name, rest)
    except ValueError as error:
        return _refuse(error)


def _run(name: str, rest: list[str]) -> int:
    if name == "launch":
        from launch.__main__ import main as launch

        return launch(rest)
    if name == "presets":
        from trainer.commands.presets import command as presets

        return presets(rest)
    if name == "check":
        from trainer.commands.check import command as check

        return check(rest)
    if name == "plan":
        from launch.plan import command as plan
        from trainer.commands.plan import ask, count, show

        return plan(rest, ask, count, show)
    if name == "tune":
        from trainer.commands.tune import command as tune

        return tune(rest)
    if name == "evaluate":
        from trainer.commands.evaluate import command as evaluate

        return evaluate(rest)
    if name == "export":
        from trainer.commands.export import command as export

        return export(rest)
    if name == "doctor":
        from trainer.commands.doctor import command as doctor

        return doctor(rest)
    if name == "demos":
        from trainer.commands.demos import command as demos

        return demos(rest)
    from trainer.cli import parse_train
    from trainer.commands.check import check_early

    request = parse_train(rest)  # before torch is imported, so that mistakes are reported at once
    check_early(request, Launch.read())
    from trainer.commands.train import command as train

    return train(request, rest)


def _refuse(error: ValueError) -> int:
    """Print one line, on rank 0 only."""
    if Launch.read().rank == 0:
        print(f"lockstep: {' '.join(str(error).split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
