"""A study that is killed starts again, a bounded number of times, and tells of it."""

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from test_workflow import ROOT, TINY

SUPERVISOR = ROOT / "workflow" / "profiles" / "supervisor"
# Stands for Snakemake: notes how it was called, and does what the next line says.
STUB = """#!/usr/bin/env bash
echo "$*" >>calls
next=$(head -n 1 plan) && sed -i 1d plan
eval "$next"
"""
# Stands for Apprise: notes what was told.
TOLD = '#!/usr/bin/env bash\necho "${2##*: }" >>told\necho "$4" >>words\n'


@pytest.fixture
def folder(tmp_path):
    """Make a checkout in miniature, with stand-ins for the programs that are called."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in (("snakemake", STUB), ("apprise", TOLD)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return tmp_path


def start(folder, plan=None, **environment):
    """Start the script, as supervisord does; `plan` is what Snakemake will do."""
    if plan is not None:
        (folder / "plan").write_text("\n".join(plan) + "\n")
    return subprocess.Popen(
        [SUPERVISOR / "unattended.sh", "--cores", "1"],
        cwd=folder,
        env={**os.environ, "RESTARTS": "2", "PAUSE": "0", **environment},
        stdout=(folder / "output").open("a"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def ran(folder, plan=None, **environment):
    return start(folder, plan, **environment).wait(60)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_a_finished_study_is_told_and_not_started_again(folder):
    assert ran(folder, ["exit 0"]) == 0
    assert lines(folder / "told") == ["done"]
    assert lines(folder / "calls") == ["--cores 1"]


def test_it_is_given_up_after_the_restarts(folder):
    plan = ["exit 1", "exit 1", "exit 1"]
    statuses = [ran(folder, plan if n == 0 else None) for n in range(4)]
    assert statuses == [1, 1, 1, 75]
    assert lines(folder / "told") == ["fell", "fell", "given up"]
    assert len(lines(folder / "calls")) == 3


def test_a_message_has_the_last_words(folder):
    assert ran(folder, ["echo one; echo the disk is full >&2; exit 1", "exit 0"]) == 1
    assert ran(folder) == 0
    assert "the disk is full" in lines(folder / "words")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
def test_a_full_disk_ends_the_restarts(folder):
    """What cannot be counted would start again for ever."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        shutil.copytree(folder / ".venv", disk / ".venv")
        (disk / "plan").write_text("exit 0\n")
        (disk / "output").touch()
        subprocess.run(["dd", "if=/dev/zero", f"of={disk}/filler"], capture_output=True)
        assert [ran(disk) for _ in range(3)] == [75, 75, 75]
        assert lines(disk / "calls") == []
        (disk / "filler").unlink()
        assert ran(disk) == 0
        assert lines(disk / "told") == ["done"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_starting_it_after_it_was_given_up_counts_anew(folder):
    plan = ["exit 1", "exit 1", "exit 1", "exit 1", "exit 0"]
    statuses = [ran(folder, plan if n == 0 else None) for n in range(6)]
    assert statuses == [1, 1, 1, 75, 1, 0]


def test_a_success_forgets_the_falls(folder):
    plan = ["exit 1", "exit 0", "exit 1", "exit 1", "exit 0"]
    assert [ran(folder, plan if n == 0 else None) for n in range(5)] == [1, 0, 1, 1, 0]


def test_what_a_killed_snakemake_left_is_ended_before_the_next_start(folder):
    job = "bash -c 'trap \"touch ended; exit\" TERM; touch up; sleep 60 & wait' &"
    plan = [f"{job} until [ -e up ]; do sleep 0.05; done; kill -9 $$"]
    assert ran(folder, plan) == 1
    assert (folder / "ended").exists()


def test_stopping_reaches_snakemake_and_its_jobs(folder):
    trap = "trap 'touch {0}; exit 1' TERM; touch up-{0}; sleep 60 & wait"
    job = f'bash -c "{trap.format("job")}" &'
    process = start(folder, [f"{job} {trap.format('snakemake')}"])
    until(lambda: (folder / "up-job").exists() and (folder / "up-snakemake").exists())
    process.terminate()
    assert process.wait(30) == 143
    assert (folder / "job").exists()
    assert (folder / "snakemake").exists()
    assert lines(folder / "told") == []


def test_a_killed_script_leaves_its_snakemake_alone_and_waits_for_it(folder):
    plan = ["touch up; until [ -e go ]; do sleep 0.05; done; touch one", "[ -e one ]"]
    first = start(folder, plan)
    until(lambda: (folder / "up").exists())
    first.kill()
    first.wait()
    second = start(folder)
    time.sleep(1)
    assert len(lines(folder / "calls")) == 1
    (folder / "go").touch()
    assert second.wait(30) == 0


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps the titles of the messages that are sent to it."""

    titles: list[str] = []  # noqa: RUF012 - one server, one list

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.titles.append(json.loads(self.rfile.read(length))["title"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    """Receive messages as a webhook does; yield its address and their titles."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Receiver.titles.clear()
    yield f"json://127.0.0.1:{server.server_port}", Receiver.titles
    server.shutdown()


@pytest.mark.workflow
@pytest.mark.timeout(1900)
def test_supervisor_finishes_a_study_whose_snakemake_was_killed(tmp_path, receiver):
    """The real thing: supervisord, Snakemake, a training and Apprise."""
    pytest.importorskip("supervisor")
    pytest.importorskip("apprise")
    address, titles = receiver
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / "results").mkdir()
    place = tmp_path / SUPERVISOR.relative_to(ROOT)
    shutil.copytree(SUPERVISOR, place)
    study = TINY | {
        "datasets": {"toy_flowers": {"format": "toy_flowers", "train": 20}},
        "diffusion": {"schedules": ["linear"], "steps": [5]},
        "training": TINY["training"] | {"epochs": 300},
        "sampling": {"images": 6, "batch_size": 3},
        "classification": None,
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))
    conf = place / "noisesteps.conf"
    arguments = f"--cores 1 --snakefile {ROOT}/Snakefile --configfile tiny.yaml"
    text = conf.read_text().replace("--cores all", f"{arguments} --until train")
    conf.write_text(text.replace('PAUSE="60"', 'PAUSE="0"'))
    program = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(conf)]
    environment = os.environ | {"APPRISE_URLS": address, "OMP_NUM_THREADS": "1"}
    supervisord = subprocess.Popen(
        program, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        log = tmp_path / "results/tiny/logs/train/toy_flowers/linear/T5"
        until(lambda: len(re.findall("update ", words(log))) > 20, 900)
        os.kill(snakemake_below(supervisord.pid), signal.SIGKILL)
        model = tmp_path / "results/tiny/models/toy_flowers/linear/T5/model.json"
        until(lambda: len(titles) == 2, 900)
    finally:
        supervisord.terminate()
        supervisord.wait(150)
    assert [title.split(": ")[1] for title in titles] == ["fell", "done"]
    assert model.exists()
    stopped = re.findall(r"stopped by SIGTERM after update (\d+)", words(log))
    assert len(stopped) == 1
    assert re.findall(r"goes on after update (\d+)", words(log)) == stopped


def words(folder):
    return "".join(path.read_text() for path in sorted(folder.rglob("*.log")))


def snakemake_below(supervisord):
    """Return the process that supervisord's script started."""
    child = ["pgrep", "-P", str(supervisord)]
    script = subprocess.check_output(child, text=True).split()[0]
    child = ["pgrep", "-P", script, "-f", "snakemake"]
    return int(subprocess.check_output(child, text=True).split()[0])
