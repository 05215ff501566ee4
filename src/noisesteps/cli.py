"""One sub-command for each stage: parse the command line, call the stage."""

from __future__ import annotations

import inspect
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from noisesteps import stages
from noisesteps.config import Study, load_study
from noisesteps.errors import ConfigError, NoisestepsError, printable
from noisesteps.paths import Run, StudyPaths

if TYPE_CHECKING:
    import torch


class Program(click.Group):
    """A click group that prints the project's own errors as one sentence."""

    def invoke(self, context: click.Context) -> Any:
        """Run the sub-command; a user's error ends in a message and an exit code."""
        try:
            return super().invoke(context)
        except NoisestepsError as error:
            _give_up(str(error), error.exit_code)
        except FileNotFoundError as error:
            _give_up(f"{error.filename} is missing; run the stage that makes it first.")
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _give_up(
                f"{place}{error.strerror or error}; free space or mend the "
                "permissions, and run the same command again."
            )
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, not imported here
                raise
            _give_up("the device's memory is too small; lower the stage's batch_size.")

    def list_commands(self, context: click.Context) -> list[str]:
        """List the stages in the order in which data flows through them."""
        return list(self.commands)


def _give_up(message: str, exit_code: int = 1) -> NoReturn:
    click.echo(f"noisesteps: error: {printable(message)}", err=True)
    sys.exit(exit_code)


@click.group(
    cls=Program,
    help="How many noise steps does a diffusion model need, and what does "
    "each one cost? Every stage of a study is one sub-command; `snakemake` runs them "
    "all in the right order.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="noisesteps")
def main() -> None:
    """Set up logging for every stage."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )


def config_option(function: Callable) -> Callable:
    """Add `--config FILE`; hand on a validated `Study`, and the file if wanted."""
    wants_file = "config_file" in inspect.signature(function).parameters

    @click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        required=True,
        help="The study's YAML file, such as config/demo.yaml.",
    )
    @wraps(function)
    def wrapper(config_file: Path, **arguments: Any) -> Any:
        if wants_file:
            arguments["config_file"] = config_file
        return function(study=load_study(config_file), **arguments)

    return wrapper


def dataset_option(function: Callable) -> Callable:
    """Add `--dataset NAME`, checked against the study."""

    @click.option("--dataset", required=True, help="A data set of the study.")
    @wraps(function)
    def wrapper(study: Study, dataset: str, **arguments: Any) -> Any:
        _choice("dataset", dataset, study.datasets)
        return function(study=study, dataset=dataset, **arguments)

    return wrapper


def run_options(function: Callable) -> Callable:
    """Add the coordinates of one model, checked against the study."""

    @dataset_option
    @click.option("--schedule", required=True, help="Beta schedule.")
    @click.option("--steps", type=int, required=True, help="Number of noise steps T.")
    @click.option(
        "--training-seed",
        "seed",
        default=0,
        show_default=True,
        help="Repetition of the training.",
    )
    @wraps(function)
    def wrapper(
        study: Study,
        dataset: str,
        schedule: str,
        steps: int,
        seed: int,
        **arguments: Any,
    ) -> Any:
        _choice("schedule", schedule, study.diffusion.schedules)
        _choice("steps", steps, study.diffusion.steps)
        _choice("training-seed", seed, range(study.training.seeds))
        run = Run(dataset, schedule, steps, seed)
        return function(study=study, run=run, **arguments)

    return wrapper


def sampler_option(function: Callable) -> Callable:
    """Add `--sampler METHOD-STEPS`, one of the study's `sampling.fewer_steps`."""

    @click.option(
        "--sampler",
        help="Such as ddim-50: the model of the largest T, sampled in fewer steps.",
    )
    @wraps(function)
    def wrapper(study: Study, run: Run, sampler: str | None, **arguments: Any) -> Any:
        if sampler is not None:
            known = study.respaced_runs_of(run.dataset)
            allowed = [other.sampler for other in known if other.model == run]
            run = replace(run, sampler=_choice("sampler", sampler, allowed))
        return function(study=study, run=run, **arguments)

    return wrapper


def output_option(function: Callable) -> Callable:
    """Add `--output FOLDER`, where an export goes."""
    return click.option(
        "--output",
        type=click.Path(path_type=Path),
        required=True,
        help="The folder to write; it may exist if it is empty.",
    )(function)


def classification_required(function: Callable) -> Callable:
    """Refuse a stage of the classification branch where the study has none."""

    @wraps(function)
    def wrapper(study: Study, **arguments: Any) -> Any:
        if study.classification is None:
            raise ConfigError("The study has no `classification`; add the key.")
        return function(study=study, **arguments)

    return wrapper


def _print(told: dict[str, Any] | Callable[[int], str]) -> None:
    """Print values as JSON, or a text that is told the width of the terminal."""
    if isinstance(told, dict):
        click.echo(json.dumps(told, indent=2))
        return
    # Where no terminal tells its width, lines are left whole for other programs.
    width, _ = shutil.get_terminal_size(fallback=(1000, 24))
    click.echo(told(width))


def _choice(option: str, value: Any, allowed: Iterable) -> Any:
    """Return `value` if the study has it."""
    if value not in allowed:
        choices = ", ".join(map(str, allowed)) or "none: the study has no other"
        raise ConfigError(
            f"--{option} {value} is not in the study; choose one of {choices}."
        )
    return value


def device_options(function: Callable) -> Callable:
    """Add `--device` and `--threads`; hand the stage a `torch.device`."""

    @click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, cuda:N or mps.",
    )
    @click.option("--threads", type=click.IntRange(1), help="CPU threads to use.")
    @wraps(function)
    def wrapper(device: str, threads: int | None, **arguments: Any) -> Any:
        from noisesteps import devices

        devices.set_threads(threads)
        devices.keep_freed_memory()
        return function(device=devices.select_device(device), **arguments)

    return wrapper


@main.command()
@config_option
@click.option("--source", required=True, help="A data set, or the extractor's name.")
def fetch(study: Study, source: str) -> None:
    """Download and verify the files of a data set, or the extractor's weights."""
    stages.fetch(study, source)


@main.command()
@config_option
@dataset_option
def preprocess(study: Study, dataset: str) -> None:
    """Decode, check, resize and split a data set into one uint8 array."""
    stages.preprocess(study, dataset)


@main.command()
@config_option
@run_options
@device_options
def train(study: Study, run: Run, device: torch.device) -> None:
    """Train the DDPM of one data set, schedule and T; goes on where it stopped."""
    stages.train(study, run, device)


@main.command()
@config_option
@run_options
@sampler_option
@device_options
def sample(study: Study, run: Run, device: torch.device) -> None:
    """Generate images with one trained model, and time it."""
    stages.sample(study, run, device)


@main.command()
@config_option
@dataset_option
@device_options
def reference(study: Study, dataset: str, device: torch.device) -> None:
    """Compute the statistics of a data set's real images."""
    stages.reference(study, dataset, device)


@main.command()
@config_option
@run_options
@sampler_option
@device_options
def score(study: Study, run: Run, device: torch.device) -> None:
    """Measure how far one model's samples lie from the training images."""
    stages.score(study, run, device)


@main.command()
@config_option
@classification_required
@click.option("--set", "set_name", help="One of them, such as mix; default: all.")
def sets(study: Study, set_name: str | None) -> None:
    """Build the training sets of the classifiers, and the test set."""
    names = [*study.classification.sets, "test"]
    for name in [_choice("set", set_name, names)] if set_name else names:
        stages.sets(study, name)


@main.command()
@config_option
@classification_required
@click.option("--architecture", required=True, help="resnet18 or vgg16.")
@click.option("--set", "set_name", required=True, help="Such as origin or mix.")
@click.option("--seed", type=click.IntRange(0), help="One repetition; default: all.")
@device_options
def classify(
    study: Study,
    architecture: str,
    set_name: str,
    seed: int | None,
    device: torch.device,
) -> None:
    """Train classifiers on one set, and test them on held-out images."""
    chosen = study.classification
    _choice("architecture", architecture, chosen.architectures)
    _choice("set", set_name, chosen.sets)
    seeds = range(chosen.seeds)
    for repetition in seeds if seed is None else [_choice("seed", seed, seeds)]:
        stages.classify(study, architecture, set_name, repetition, device)


@main.command()
@config_option
@click.option("--table", required=True, help="Such as fid or generation_time.")
def tabulate(study: Study, table: str) -> None:
    """Gather the records of finished stages into one table."""
    from noisesteps.tables import table_names

    stages.tabulate(study, _choice("table", table, table_names(study)))


@main.command()
@config_option
@click.option("--figure", required=True, help="Such as generation_time.")
def draw(study: Study, figure: str) -> None:
    """Draw one figure, as PNG and SVG."""
    from noisesteps.figures import figure_names

    stages.draw(study, _choice("figure", figure, figure_names(study)))


@main.command()
@config_option
def report(study: Study, config_file: Path) -> None:
    """Write the report: one HTML file that opens offline."""
    stages.report(study, config_file)


@main.group()
def export() -> None:
    """Take a finished run elsewhere, in formats that other tools read."""


@export.command("pipeline")
@config_option
@run_options
@output_option
def export_pipeline(study: Study, run: Run, output: Path) -> None:
    """Write one model as a folder that diffusers' DDPMPipeline loads."""
    stages.export_pipeline(study, run, output)


@export.command("images")
@config_option
@run_options
@output_option
def export_images(study: Study, run: Run, output: Path) -> None:
    """Write one model's images as PNG files, in a folder with labels."""
    stages.export_images(study, run, output)


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def status(study: Study, as_json: bool) -> None:
    """Show how far every model of a study is, and what failed."""
    from noisesteps.status import as_values, describe, study_status

    found = study_status(study)
    _print(as_values(found) if as_json else partial(describe, found))


@main.command()
@config_option
def compare(study: Study) -> None:
    """Print what is finished beside the dissertation's numbers, as Markdown.

    Reads the records of the models that have a score; the study may lack others.
    """
    from noisesteps.report import beside_the_dissertation

    click.echo(beside_the_dissertation(study, StudyPaths(study.study)))


@main.command()
@config_option
@click.option(
    "--minutes",
    type=click.FloatRange(0),
    required=True,
    help="When to stop; 0 only says what is next.",
)
@click.option("--stage", "stages_", multiple=True, help="Such as train; default: all.")
@click.option("--dataset", "datasets", multiple=True, help="Of its models alone.")
@click.option("--schedule", "schedules", multiple=True, help="Of its models alone.")
@click.option("--steps", type=int, multiple=True, help="Of the models with this T.")
@device_options
def advance(
    study: Study,
    device: torch.device,
    minutes: float,
    stages_: tuple[str, ...],
    datasets: tuple[str, ...],
    schedules: tuple[str, ...],
    steps: tuple[int, ...],
) -> None:
    """Do what is next of a study, for some minutes, without Snakemake.

    From `reference` to `classify`, in this one process; run it again and it goes on.
    The options that choose a part may be given more than once. Exit code 0: all of the
    part is done; 75: the time was up first.
    """
    from noisesteps import advance as pieces

    for option, values, allowed in (
        ("stage", stages_, pieces.STAGES),
        ("dataset", datasets, study.datasets),
        ("schedule", schedules, study.diffusion.schedules),
        ("steps", steps, study.diffusion.steps),
    ):
        for value in values:
            _choice(option, value, allowed)
    choice = pieces.Choice(stages_, datasets, schedules, steps)
    piece = pieces.advance(study, choice, 60 * minutes, device, click.echo)
    click.echo(piece)
    sys.exit(piece.exit_code)


@main.command()
@config_option
@click.option("--cores", type=click.IntRange(1), help="As Snakemake's; default: all.")
@click.option(
    "--gpus",
    type=click.IntRange(1),
    help="As `--resources gpu=` of Snakemake; default: 1 with a GPU, else the cores.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Of the jobs: auto, cpu, cuda, cuda:N or mps.",
)
@click.option(
    "--time-limit",
    "minutes",
    type=click.IntRange(1),
    help="Minutes that a cluster gives each job; default: those of the SLURM profile.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--fresh", is_flag=True, help="Measure this machine anew.")
def plan(
    study: Study,
    cores: int | None,
    gpus: int | None,
    device: str,
    minutes: int | None,
    as_json: bool,
    fresh: bool,
) -> None:
    """Say what a study will take, before it runs: time, memory and disk.

    This machine is measured for about a minute (a large network on a CPU takes longer),
    with as many jobs at once as will run, and the result is kept in
    resources/calibration. Nothing of the study is run.
    """
    from noisesteps import devices
    from noisesteps.plan import Slots, as_values, describe, plan_study
    from noisesteps.plan.machine import free_cores, job_device

    chosen = job_device(device)
    cores = cores or free_cores()
    slots = Slots(cores, gpus or (cores if chosen.type == "cpu" else 1))
    devices.set_threads(slots.threads)
    made = plan_study(study, slots, chosen, device, minutes, fresh)
    _print(as_values(made) if as_json else partial(describe, made))
