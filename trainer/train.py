"""THE loop."""

from __future__ import annotations

from trainer.run import Run


def train(run: Run) -> None:
    """Train from where `run` stands to its end, or until a stop is requested on any rank.

    `send` before learning and `recv` after it let environments that run elsewhere (C++ threads, processes) advance
    while the device learns. How many updates belong to a step, and what is due, follows from the step alone.
    """
    envs, policy, replay, learner, sync = run.envs, run.policy, run.replay, run.learner, run.sync
    config, layout, span = run.config, run.layout, run.spans
    if run.pretrain():
        return
    timestep = run.timestep
    for step in range(run.step + 1, layout.num_steps + 1):  # one step = every env, on every rank, once
        rates = layout.rates(step)
        with span("act"):
            choice = policy.act(timestep, rates)
        with span("env"):
            envs.send(choice.action)
        with span("learn"):
            for batch in replay.batches(step):
                result = learner.update(batch, rates)
                replay.reprioritize(batch.index, result)
        with span("env"):
            next_timestep = envs.recv()
        with span("replay"):
            replay.add(timestep, choice, next_timestep)
        timestep = run.advance(step, next_timestep)
        if layout.due(step, config.target.every):
            with span("sync"):
                sync.refresh(config.target.tau)
        save, report = layout.due(step, config.checkpoint.every), layout.due(step, config.log.every)
        stop = step == layout.num_steps
        if stop or save or report or layout.due(step, config.runtime.poll_every):
            stop |= run.poll()  # always before a save: bad numbers never reach a checkpoint
        if stop or save or report:
            run.log()
        if config.eval.episodes and layout.due(step, config.eval.every) and not stop:
            run.evaluate()
        if stop or save:
            run.save(last=stop)
        if stop:
            break
