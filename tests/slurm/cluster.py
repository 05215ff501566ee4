"""A SLURM cluster of one node on the loopback device, in a folder of its own.

Real daemons (munged, slurmctld, slurmd) with free ports, a key and a state of their
own; a cluster that the machine belongs to is left alone. They run as the user who
starts them. The node says that it has two GPUs, which are /dev/null and /dev/zero, so
that one can be asked for and SLURM says which one it gave.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "setpriv": "util-linux",
}
CPUS = 4
MEMORY_MB = 64_000  # asked for and not used: the jobs are tiny

CONFIGURATION = """\
ClusterName=noisesteps-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
# Finished jobs are asked about at the end.
MinJobAge=7200
# The node has more CPUs and memory than the machine may have.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GPUS = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"
# The plugin hides SLURM_CONF from the srun that it starts inside a job.
SRUN = '#!/bin/sh\nSLURM_CONF="{configuration}" exec "{srun}" "$@"\n'


def missing_packages() -> list[str]:
    """Name the Debian packages of the programs that are not installed."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    lacking = [name for name in PACKAGES if shutil.which(name, path=search) is None]
    return sorted({PACKAGES[name] for name in lacking})


class Cluster:
    """The cluster, up while it is entered.

    Attributes
    ----------
    environment
        What a process needs to submit to it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.host = socket.gethostname().split(".")[0]
        configuration = folder / "slurm.conf"
        search = [folder / "bin", os.environ["PATH"], "/usr/sbin", "/sbin"]
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(configuration),
            "PATH": os.pathsep.join(map(str, search)),
        }
        self._stack = ExitStack()

    def __enter__(self) -> Cluster:
        self._write()
        with ExitStack() as stack:
            munge = self.folder / "munge"
            files = ("key-file", "socket", "pid-file", "log-file", "seed-file")
            options = [f"--{name}={munge}/{name.split('-')[0]}" for name in files]
            # The folder is private, which munged would call inaccessible.
            stack.enter_context(self._daemon("munged", "-F", "--force", *options))
            self._wait(lambda: (munge / "socket").exists(), "munged")
            stack.enter_context(self._daemon("slurmctld", "-D", "-c"))
            stack.enter_context(self._daemon("slurmd", "-D", "-N", self.host))
            stack.callback(self._cancel)
            self._wait(lambda: self("sinfo", "-h", "-o", "%T") == "idle", "slurmd")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, *command: str | Path) -> str:
        """Run a command of SLURM; return what it printed, or nothing if it failed."""
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True
        )
        return result.stdout.strip() if result.returncode == 0 else ""

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Map each job that SLURM remembers to its state and the plugin's comment."""
        lines = self("squeue", "-h", "-t", "all", "-o", "%i %T %k").splitlines()
        return {line.split()[0]: tuple(line.split()[1:3]) for line in lines}

    def logs(self) -> str:
        """Return the daemons' last lines."""
        texts = sorted(self.folder.glob("*.out"))
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in texts)

    def _write(self) -> None:
        for name in ("munge", "state", "spool", "bin"):
            (self.folder / name).mkdir(mode=0o755)
        (self.folder / "munge" / "key").touch(mode=0o600)
        (self.folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
        values = {"host": self.host, "user": _user(), "folder": self.folder}
        values |= {"controller_port": _free_port(), "node_port": _free_port()}
        text = CONFIGURATION.format(**values, cpus=CPUS, memory=MEMORY_MB)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(GPUS)
        srun = self.folder / "bin" / "srun"
        configuration = self.environment["SLURM_CONF"]
        found = shutil.which("srun")
        srun.write_text(SRUN.format(configuration=configuration, srun=found))
        srun.chmod(0o755)

    def _daemon(self, *command: str) -> _Daemon:
        output = self.folder / f"{command[0]}.out"
        # Even if this process is killed, no daemon outlives it.
        bound = ["setpriv", "--pdeathsig", "TERM", *command]
        return _Daemon(bound, self.environment, output)

    def _cancel(self) -> None:
        """End every job while the daemons that can end them are up."""
        self("scancel", "--user", _user(), "--signal", "KILL", "--full")
        self("scancel", "--user", _user())
        self._wait(lambda: not self("squeue", "-h"), "scancel", required=False)

    def _wait(self, ready, what: str, required: bool = True) -> None:
        end = time.monotonic() + 30
        while not ready():
            if time.monotonic() > end:
                if not required:
                    return
                raise RuntimeError(f"{what} did not get ready.\n{self.logs()}")
            time.sleep(0.1)


class _Daemon:
    """A process in the foreground, terminated at the end of its block."""

    def __init__(self, command: list[str], environment: dict[str, str], output: Path):
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> _Daemon:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
