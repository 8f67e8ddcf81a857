"""Combinations that make no sense are refused in one line: field, value, reason, remedy."""

from __future__ import annotations

import pytest

from trainer.cli import parse_train
from trainer.config import ConfigError
from trainer.presets import PRESETS
from trainer.validate import validate

ROLLOUT = "--replay.kind rollout"
STAGES = "--shards 2 --sync.stages 2"
TASKS = "--env.tasks toy/Catch toy/Chain --shards 2"
THREE_TASKS = "--env.tasks toy/Catch toy/Chain toy/Memory --shards 3 --env.num_envs 9 --replay.batch_size 66"

# what follows `train debug` -> how the line begins
CASES: list[tuple[str, str]] = [
    # the body
    ("--net.spectral_norm True", "--net.spectral_norm True: --net.torso auto has no such part; use --net.torso impala"),
    ("--net.torso nature --net.pool 6", "--net.pool 6: --net.torso nature has no such part; use --net.torso impala"),
    ("--net.width 2", "--net.width 2: --net.torso auto has no such part; use --net.torso impala, or --net.width 1"),
    # sequences
    ("--replay.kind sequence", "--replay.kind sequence: sequences need a recurrent network"),
    ("--net.lstm 8", "--net.lstm 8: --replay.kind uniform does not keep the states"),
    ("--loss.rescale True", "--loss.rescale True: values are rescaled by the loss of sequences"),
    ("--replay.kind sequence --net.lstm 8 --net.head qr", "--net.head qr: the loss of sequences does not support it"),
    ("--replay.kind sequence --net.lstm 8 --loss.target sarsa", "--loss.target sarsa: the loss of sequences"),
    ("--replay.kind sequence --net.lstm 8 --loss.munchausen True", "--loss.munchausen True: the loss of sequences"),
    ("--replay.kind sequence --net.lstm 8 --pixels.spr 2", "--pixels.spr 2.0: the loss of sequences"),
    ("--replay.kind sequence --net.lstm 8 --replay.stride 81", "--replay.stride 81: steps between sequences of"),
    ("--replay.kind sequence --net.lstm 8 --replay.burn_in 81", "--replay.burn_in 81: the first sequence of an"),
    ("--replay.kind sequence --net.lstm 8 --replay.capacity 1000", "--replay.capacity 1000: 8 environments cannot"),
    ("--replay.kind sequence --net.lstm 8 --replay.learning_starts 640", "--replay.learning_starts 640: before 8"),
    # distributions
    ("--net.head c51", "--net.v_min None: C51 needs to know where its histogram ends"),
    ("--net.head c51 --net.v_min -1", "--net.v_max None: C51 needs to know"),
    ("--net.head c51 --net.v_min -1 --net.v_max inf", "--net.v_max inf: not a finite number"),
    ("--net.head c51 --net.v_min 1 --net.v_max 1", "--net.v_min 1.0: not below --net.v_max 1.0"),
    ("--net.head c51 --net.v_min 2 --net.v_max -2", "--net.v_min 2.0: not below --net.v_max -2.0"),
    ("--net.head c51 --net.v_min -1 --net.v_max 1 --net.atoms 1", "--net.atoms 1: out of range"),
    ("--policy.risk 0.5", "--policy.risk 0.5: --net.head q cannot act on the worst returns"),
    ("--policy.risk 0.5 --net.head qr", "--policy.risk 0.5: --net.head qr cannot act on the worst returns"),
    ("--policy.risk 0 --net.head iqn", "--policy.risk 0.0: out of range"),
    # targets
    ("--loss.munchausen True --net.head c51 --net.v_min -1 --net.v_max 1", "--loss.munchausen True: soft values weigh"),
    ("--loss.munchausen True --loss.double True", "--loss.double True: a soft value has no maximum"),
    ("--loss.munchausen True --loss.target sarsa", "--loss.target sarsa: with --loss.munchausen the next state"),
    ("--loss.munchausen True --loss.munchausen_tau 0", "--loss.munchausen_tau 0.0: out of range"),
    ("--loss.target sarsa --loss.double True", "--loss.double True: SARSA takes no maximum"),
    ("--loss.target expected --policy.exploration ladder", "--policy.exploration ladder: --loss.target expected"),
    ("--loss.target sarsa --policy.repeat zeta", "--policy.repeat zeta: --loss.target sarsa assumes a single"),
    # teachers and demonstrations
    ("--teacher.act 0.5", "--teacher.act 0.5: there is no teacher; name runs: --teacher.runs"),
    (f"{THREE_TASKS} --teacher.runs a b", "--teacher.runs a b: 2 teacher(s) for 3 tasks"),
    ("--teacher.runs a --replay.kind sequence --net.lstm 8", "--teacher.runs a: distillation learns from single"),
    ("--teacher.runs a --teacher.weight 0", "--teacher.weight 0.0: with --teacher.act 0 the teacher would do nothing"),
    ("--teacher.runs a --teacher.act 1 --loss.target sarsa", "--teacher.act 1.0: --loss.target sarsa assumes that"),
    ("--demos.pretrain 100", "--demos.pretrain 100: there are no demonstrations; name a file of them"),
    ("--demos.path x --replay.kind rollout", "--demos.path x: demonstrations are mixed into a replay memory of"),
    ("--demos.path x --replay.kind sequence --net.lstm 8", "--demos.path x: demonstrations are mixed into a replay"),
    ("--demos.path x --loss.target expected", "--demos.path x: --loss.target expected learns the value of the agent"),
    ("--demos.path x --demos.ratio 0", "--demos.ratio 0.0: 0 of the 64 transitions that a shard adds to a batch"),
    ("--demos.path x --demos.ratio 0.03 --shards 4", "--demos.ratio 0.03: 0 of the 16 transitions that a shard adds"),
    ("--demos.path x --demos.ratio 1", "--demos.ratio 1.0: 64 of the 64 transitions that a shard adds to a batch"),
    (f"--demos.path x {TASKS}", "--demos.path x: demonstrations cover only one environment"),
    # pixels
    ("--pixels.spr 2 --demos.path x", "--pixels.spr 2.0: demonstrations do not record what followed"),
    ("--pixels.spr 2 --net.hidden", "--pixels.spr 2.0: latents are compared after the first layer of --net.hidden"),
    ("--pixels.spr_steps 0", "--pixels.spr_steps 0: out of range"),
    ("--pixels.shift -1", "--pixels.shift -1: out of range"),
    # tasks
    (f"{TASKS} --shards 1", "--env.tasks toy/Catch toy/Chain: 2 tasks cannot be placed on 1 shard"),
    ("--env.tasks toy/Catch", "--env.tasks toy/Catch: a single task"),
    ("--env.tasks toy/Catch toy/Catch --shards 2", "--env.tasks toy/Catch toy/Catch: toy/Catch is named twice"),
    (f"{TASKS} --replay.kind sequence --net.lstm 8", "--env.tasks toy/Catch toy/Chain: sequences do not record their"),
    (f"{TASKS} --eval.episodes 1", "--eval.episodes 1: fewer than the 2 tasks"),
    (f'{TASKS} --env.kwargs {{"a":3}}', '--env.kwargs {"a":3}: a is not one of the tasks'),
    (f'{TASKS} --env.kwargs {{"toy/Chain":3}}', '--env.kwargs {"toy/Chain":3}: 3 is not a JSON object'),
    # the ensemble
    ("--loss.bootstrap_mask 0.5", "--loss.bootstrap_mask 0.5: with a single head"),
    ("--net.noisy_shared True", "--net.noisy_shared True: no layer is noisy"),
    ("--net.ensemble 3 --net.head c51 --net.v_min -1 --net.v_max 1", "--net.head c51: the heads of an ensemble"),
    ("--net.ensemble 3 --loss.munchausen True", "--net.ensemble 3: the heads of an ensemble learn the value of"),
    ("--net.ensemble 3 --loss.target sarsa", "--net.ensemble 3: the heads of an ensemble learn the value of"),
    ("--net.ensemble 3 --net.lstm 8", "--net.lstm 8: the heads of an ensemble learn from single transitions"),
    # rollouts
    (f"{ROLLOUT} --replay.n_step 3", "--replay.n_step 3: a rollout's returns are Q(lambda)"),
    (f"{ROLLOUT} --loss.double True", "--loss.double True: there is no target network"),
    (f"{ROLLOUT} --loss.target sarsa", "--loss.target sarsa: Q(lambda) uses the best actions"),
    (f"{ROLLOUT} --loss.munchausen True", "--loss.munchausen True: a rollout's returns are complete"),
    (f"{ROLLOUT} --loss.rescale True", "--loss.rescale True: a rollout's returns are complete"),
    (f"{ROLLOUT} --net.head qr", "--net.head qr: Q(lambda) works on values, not on distributions"),
    (f"{ROLLOUT} --net.ensemble 3", "--net.ensemble 3: Q(lambda) works on one head"),
    (f"{ROLLOUT} --net.noisy True", "--net.noisy True: PQN explores by epsilon"),
    (f"{ROLLOUT} --net.lstm 8", "--net.lstm 8: a rollout's transitions are learned one by one"),
    (f"{ROLLOUT} --pixels.spr 1", "--pixels.spr 1.0: a rollout's transitions are learned one by one"),
    (f"{ROLLOUT} --replay.batch_size 96", "--replay.batch_size 96: does not divide a rollout of 32 steps of 8"),
    # replicas that differ
    ("--sync.period 4", "--sync.period 4: --sync.kind flat does not use it; use --sync.kind local_sgd"),
    ("--sync.local_after 9 --sync.kind gossip", "--sync.local_after 9: --sync.kind gossip does not use it"),
    ("--sync.outer_lr 0.7", "--sync.outer_lr 0.7: --sync.kind flat does not use it"),
    ("--sync.outer_momentum 0.9", "--sync.outer_momentum 0.9: --sync.kind flat does not use it"),
    ("--sync.hierarchical True", "--sync.hierarchical True: --sync.kind flat does not use it"),
    ("--sync.topology ring", "--sync.topology ring: --sync.kind flat does not use it; use --sync.kind gossip"),
    (f"{ROLLOUT} --total_env_steps 256", "--total_env_steps 256: learning would begin after a rollout of 256"),
    # the parameter server
    ("--sync.servers 2 --shards 4", "--sync.servers 2: --sync.kind flat has no parameter server; use"),
    ("--sync.asynchronous True", "--sync.asynchronous True: --sync.kind flat has no parameter server"),
    ("--sync.staleness 3 --sync.kind zero1", "--sync.staleness 3: --sync.kind zero1 has no parameter server"),
    ("--sync.kind server --sync.staleness 3", "--sync.staleness 3: without --sync.asynchronous gradients"),
    ("--sync.kind server --sync.servers 3 --shards 2", "--sync.servers 3: each is one of the 2 rank(s); use 2"),
    ("--sync.kind server --sync.servers 0", "--sync.servers 0: out of range"),
    # the exchange of gradients
    ("--sync.compress int8 --sync.kind zero1", "--sync.compress int8: --sync.kind zero1 does not exchange whole"),
    ("--sync.compress int8 --sync.kind gossip", "--sync.compress int8: --sync.kind gossip does not exchange whole"),
    ("--sync.compress topk --sync.kind ddp", "--sync.compress topk: DistributedDataParallel has no hook"),
    ("--sync.compress int8 --sync.kind ddp", "--sync.compress int8: DistributedDataParallel has no hook"),
    ("--sync.compress_rank 2", "--sync.compress_rank 2: --sync.compress none does not use it"),
    ("--sync.compress_share 0.5 --sync.compress int8", "--sync.compress_share 0.5: --sync.compress int8 does not use"),
    ("--sync.compress topk --sync.compress_share 0", "--sync.compress_share 0.0: out of range"),
    ("--sync.compress powersgd --sync.compress_rank 0", "--sync.compress_rank 0: out of range"),
    ("--sync.noise_scale True", "--sync.noise_scale True: a single rank has no other gradient to compare its own"),
    ("--sync.noise_scale True --shards 2 --sync.kind ddp", "--sync.noise_scale True: --sync.kind ddp never has a"),
    ("--sync.noise_scale True --sync.compress topk", "--sync.noise_scale True: after --sync.compress topk there is"),
    # replicas spread over ranks
    ("--sync.microbatches 2", "--sync.microbatches 2: without stages a batch passes through the layers in one piece"),
    ("--sync.stages 2", "--sync.stages 2: 1 rank(s) cannot be divided into replicas of 2"),
    (f"{STAGES} --sync.kind ddp", "--sync.kind ddp: gradients of stages are averaged only by all-reduce; omit it"),
    (f"{STAGES} --sync.compress int8", "--sync.compress int8: gradients of stages are sent uncompressed"),
    (f"{STAGES} --sync.noise_scale True", "--sync.noise_scale True: it is measured on the gradient of the whole"),
    (f"{STAGES} --optim.levels head=sgd", "--optim.levels head=sgd: each stage has one optimizer"),
    (f"{STAGES} --replay.kind sequence --net.lstm 8", "--net.lstm 8: a recurrent network is not split into stages"),
    (f"{STAGES} --net.noisy True", "--net.noisy True: every stage would have to draw the noise of all layers"),
    (f"{STAGES} --net.ensemble 3", "--net.ensemble 3: the heads of an ensemble are one layer"),
    (f"{STAGES} --net.head iqn", "--net.head iqn: its fractions are known only to the stage"),
    (f"{STAGES} --env.tasks toy/Catch toy/Chain", "--env.tasks toy/Catch toy/Chain: stages do not pass on"),
    (f"{STAGES} --pixels.spr 2", "--pixels.spr 2.0: it needs the inner layers of the network in one place"),
    (f"{STAGES} --teacher.runs a", "--teacher.runs a: teachers are not split into stages"),
    (f"{STAGES} --demos.path x", "--demos.path x: not tested with demonstrations"),
    (f"{STAGES} {ROLLOUT}", "--replay.kind rollout: rollouts evaluate the network in a way stages do not support"),
    (f"{STAGES} --sync.microbatches 3", "--sync.microbatches 3: does not divide the 64 rows of a replica's batch"),
    (
        f"{STAGES} --sync.microbatches 2 --net.torso impala --net.spectral_norm True",
        "--net.spectral_norm True: it advances",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), CASES, ids=[arguments for arguments, _ in CASES])
def test_refused(arguments: str, words: str) -> None:
    config = parse_train(["debug", *arguments.split()]).config
    with pytest.raises(ConfigError) as told:
        validate(config, config.shards or 1)
    message = str(told.value)
    assert message.startswith(words)
    assert "; " in message, "what to do instead"
    assert "\n" not in message


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_accepted(preset: str) -> None:
    validate(PRESETS[preset](), 1)


# what looks odd and works
@pytest.mark.parametrize(
    "arguments",
    [
        "--net.ensemble 3 --net.noisy True --net.dueling True --net.head_hidden 16 --loss.double True",
        "--net.noisy True --net.norm layer",
        f"{ROLLOUT} --net.norm none --net.dueling True",
        "--policy.zeta 3",
        "--net.head iqn --policy.risk 0.5 --loss.double True --net.dueling True --net.noisy True --net.head_hidden 16",
        "--net.head qr --loss.munchausen True --replay.n_step 3",
        "--net.head c51 --net.v_min -1 --net.v_max 1 --loss.target expected --loss.double True",
        "--replay.kind sequence --net.lstm 8 --net.noisy True --net.dueling True --replay.learning_starts 648",
        "--sync.kind server --sync.asynchronous True --sync.staleness 0 --optim.kind adadelta",
        "--sync.compress powersgd --sync.compress_rank 2 --sync.kind ddp",
        "--sync.compress bf16 --sync.kind ddp",
    ],
)
def test_accepted(arguments: str) -> None:
    validate(parse_train(["debug", *arguments.split()]).config, 1)
