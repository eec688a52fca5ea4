"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd, on free ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HOSTS = Path("/etc/hosts")
NODES = ("n0", "n1")
CONFIGURATION = """
ClusterName=finishline
SlurmctldHost=localhost({address})
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,defer_batch
MinJobAge=3600
KillWait=30
InactiveLimit=0
ReturnToService=2
JobRequeue=1
NodeName=n0 NodeHostname={host} NodeAddr={address} Port={first} CPUs=4 State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr={address} Port={second} CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES OverSubscribe=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A running cluster; its commands need ``environment``.

    Args:
        folder: Directory of its configuration, logs and sockets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str, check: bool = True, seconds: float = 60) -> str:
        """Run a command in the cluster's environment and return what it printed."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def fact(self, job: str, name: str) -> str:
        """Return one value of ``scontrol show job``."""
        words = self.run("scontrol", "show", "job", job).split()
        return next(w.partition("=")[2] for w in words if w.startswith(f"{name}="))

    def wait(self, job: str, state: str = "COMPLETED", seconds: float = 300) -> None:
        """Wait until a job has a state."""
        end = time.monotonic() + seconds
        while self.fact(job, "JobState") != state:
            assert time.monotonic() < end, self.run("scontrol", "show", "job", job)
            time.sleep(0.5)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start the daemons, and at the end stop them and restore the hosts file."""
    with ExitStack() as stack:
        stack.enter_context(_hosts())
        ports = _free_ports(3)
        text = CONFIGURATION.format(
            folder=folder, host=socket.gethostname(), address="127.0.0.1",
            controller=ports[0], first=ports[1], second=ports[2],
        )  # fmt: skip
        (folder / "slurm.conf").write_text(text.lstrip())
        key = folder / "munge.key"
        subprocess.run(["mungekey", "-c", "-k", str(key)], check=True)
        names = {"key-file": key, "socket": folder / "munge.socket", "pid-file": "munge.pid",
                 "seed-file": "munge.seed", "log-file": "munged.log"}  # fmt: skip
        files = [f"--{name}={folder / path}" for name, path in names.items()]
        made = Cluster(folder)
        daemons = [
            ["munged", "--foreground", "--force", *files],
            ["slurmctld", "-D", "-c"],
            *(["slurmd", "-D", "-N", node] for node in NODES),
        ]
        for command in daemons:
            stack.callback(_stop, _start(command, made))
            if command[0] == "munged":
                _wait_for((folder / "munge.socket").exists)
        _wait_for(lambda: made.run("sinfo", "-h", "-o", "%D %t", check=False).strip() == "2 idle")
        yield made
        made.run("scancel", "--user", "root", check=False)
        _wait_for(lambda: not made.run("squeue", "-h", check=False).strip(), seconds=60)


@contextmanager
def _hosts() -> Iterator[None]:
    """Give the nodes' names this machine's address; at the end take just these lines out."""
    mark = f"  # slurm test {os.getpid()}"
    added = "".join(f"127.0.0.1 {node}{mark}\n" for node in NODES)
    HOSTS.write_text(f"{HOSTS.read_text().rstrip()}\n{added}")
    try:
        yield
    finally:
        lines = HOSTS.read_text().splitlines(keepends=True)
        HOSTS.write_text("".join(line for line in lines if mark not in line))


def _start(command: list[str], cluster: Cluster) -> subprocess.Popen[bytes]:
    log = (cluster.folder / f"{'-'.join(command).replace('/', '_')[:40]}.out").open("wb")
    program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program, f"{command[0]} is missing: apt-get install slurm-wlm munge"
    with log:
        return subprocess.Popen(
            [program, *command[1:]], env=cluster.environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long for the cluster"
        time.sleep(0.2)
