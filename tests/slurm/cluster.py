"""A real SLURM on this machine, for tests: slurmctld and one slurmd for each emulated node, all below one folder.

Any user may run it: nodes are named by addresses of the loopback interface, which resolve everywhere, and the daemons
trust each other without munge. Every process of it, jobs included, has SLURM_CONF=FOLDER/slurm.conf in its environment;
that is how every last one is found when the cluster goes down. A keeper does that, a separate process that waits for
the end of the process that started the cluster, so it happens however that one ends.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
PACKAGES = "slurmctld slurmd slurm-client"
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
NODES = ("127.77.0.1", "127.77.0.2")
CPUS = 8  # of each node, however many this machine has
STARTS_IN = 60.0  # s
SENDS_SIGNAL = "SlurmctldParameters=preempt_send_user_signal"

# low is pre-empted by high; a requeued job may start again after cred_expire
CONF = """\
ClusterName=lockstep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
FirstJobId={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PropagateResourceLimits=NONE
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n/slurmd.pid
SlurmdSpoolDir={folder}/%n
SlurmdParameters=config_overrides
{sends_signal}
KillWait=30
SlurmdTimeout=15
ReturnToService=2
EnforcePartLimits=ALL
MinJobAge=3600
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=50 PreemptMode=OFF
PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=100 PreemptMode=OFF
"""


def lacks() -> str:
    """Return what is missing of SLURM and how to get it, in one line; empty if nothing is."""
    missing = ", ".join(tool for tool in TOOLS if shutil.which(tool, path=_path()) is None)
    return missing and f"SLURM is not installed ({missing}), its tests do not run: apt-get install {PACKAGES}"


@dataclass
class Cluster:
    """A cluster that is up; `running` makes one."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to talk to this cluster and no other."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return own | {"PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *command: str, check: bool = True) -> str:
        """Return what a command of SLURM prints."""
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=30)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def configure(self) -> None:
        """Write the configuration."""
        from benchmarks.ports import free_ports  # as a script this file does not find it, nor needs it

        path = self.folder / "slurm.conf"
        ports = free_ports(len(NODES) + 1)
        nodes = [
            f"NodeName={name} NodeAddr={name} Port={port} CPUs={CPUS} RealMemory=64000 State=UNKNOWN"
            for name, port in zip(NODES, ports[1:], strict=True)
        ]
        host = socket.gethostname().partition(".")[0]
        told = {"host": host, "port": ports[0], "user": getpass.getuser(), "folder": self.folder}
        path.write_text(CONF.format(**told, sends_signal=SENDS_SIGNAL, nodes="\n".join(nodes)))

    def boot(self, *nodes: str) -> None:
        """Start the controller if it is not running, and nodes; return when all of these accept jobs."""
        (self.folder / "state").mkdir(exist_ok=True)
        if "UP" not in self.ask("scontrol", "ping", check=False):
            self._start("slurmctld", "-D", "-c")
        for node in nodes:
            (self.folder / node).mkdir(exist_ok=True)
            self._start("slurmd", "-D", "-b", "-N", node)
        wait_for(lambda: all(self.state(node) in ("idle", "mixed") for node in nodes), STARTS_IN, self.tell)

    @contextlib.contextmanager
    def sends_job_signal(self, wanted: bool) -> Iterator[None]:
        """Within this block, send pre-empted jobs the signal of their --signal, or SIGTERM only."""
        path = self.folder / "slurm.conf"
        before = path.read_text()
        try:
            if not wanted:
                path.write_text(before.replace(SENDS_SIGNAL, ""))
                self.ask("scontrol", "reconfigure")
            yield
        finally:
            path.write_text(before)
            self.ask("scontrol", "reconfigure")

    def state(self, node: str) -> str:
        return self.ask("sinfo", "-hN", "-p", "main", "-n", node, "-o", "%T", check=False).strip()

    def kill_node(self, node: str) -> None:
        """Cut the power of a node: SIGKILL to its slurmd and to everything that its jobs started there."""
        assert node in NODES
        _end(self._processes(node))

    def reboot(self, node: str) -> None:
        """Start a node that was killed, if it still is down."""
        if not self._processes(node):
            self.boot(node)

    def processes(self, **environ: str) -> dict[int, dict[str, str]]:
        """Return the processes of this cluster whose environment has these values: pid -> environment."""
        wanted = {"SLURM_CONF": str(self.folder / "slurm.conf"), **environ}
        return {pid: found for pid, found in _processes() if wanted.items() <= found.items()}

    def tell(self) -> str:
        """Return what the daemons logged, for a test that fails."""
        logs = [f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.folder.glob("*.log")]
        return "\n".join([self.ask("sinfo", check=False), self.ask("squeue", check=False), *logs])

    def down(self) -> None:
        """End every process of the cluster."""
        for _ in range(50):
            if not (left := self.processes()):
                return
            _end(left)
            time.sleep(0.1)

    def _processes(self, node: str) -> dict[int, dict[str, str]]:
        """What runs on a node: jobs have SLURMD_NODENAME from SLURM, the daemon and its children from `_start`."""
        return self.processes(SLURMD_NODENAME=node)

    def _start(self, program: str, *options: str) -> None:
        node = {"SLURMD_NODENAME": options[-1]} if program == "slurmd" else {}
        name = options[-1] if program == "slurmd" else program
        with open(self.folder / f"{name}.log", "a") as log:
            subprocess.Popen(
                [program, "-f", str(self.folder / "slurm.conf"), *options],
                env=self.environ | node,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Bring a cluster up in a new folder, and down again."""
    cluster = Cluster(folder)
    cluster.configure()
    keeper = subprocess.Popen([sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        cluster.boot(*NODES)
        yield cluster
    finally:
        keeper.communicate(timeout=60)  # the end of its input


def wait_for(condition: Callable[[], bool], seconds: float, tell: Callable[[], str]) -> None:
    """Wait until `condition` holds; AssertionError, with what `tell` returns, if it takes longer."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:.0f} s\n{tell()}")
        time.sleep(0.2)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{SBIN}"


def _processes() -> Iterator[tuple[int, dict[str, str]]]:
    """Yield pid and environment of every living process that we may look at, ourselves left out."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            raw = (folder / "environ").read_bytes().decode(errors="replace")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and int(folder.name) != os.getpid():
                yield int(folder.name), dict(pair.split("=", 1) for pair in raw.split("\0") if "=" in pair)


def _end(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _keep(folder: Path) -> None:
    """Wait for the end of our input, which means that our parent ended, and take the cluster down."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    Cluster(folder).down()


if __name__ == "__main__":  # alone: is SLURM here?
    _keep(Path(sys.argv[1])) if sys.argv[1:] else sys.exit(lacks() or 0)
