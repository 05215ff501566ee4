"""What the rules share: the validated study, wildcard constraints, input functions."""

import atexit
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

# The checkout, whichever Snakefile included this file.
PROJECT = Path(str(workflow.current_basedir)).parents[1]
sys.path.insert(0, str(PROJECT / "src"))


import yaml

from noisesteps import figures, tables
from noisesteps.config import SetName, Study, load_study
from noisesteps.errors import NoisestepsError
from noisesteps.figures.inputs import figure_kind, figure_title
from noisesteps.files import read_json
from noisesteps.locks import exclusive
from noisesteps.needs import gpu_threads, needs
from noisesteps.paths import Run, StudyPaths
from noisesteps.tables.inputs import table_title


def config_file() -> str:
    """Return the one config file, as it is named from the working directory."""
    if len(workflow.configfiles) != 1:
        sys.exit("noisesteps: error: give exactly one file to --configfile.")
    return os.path.relpath(workflow.configfiles[0])


def read_study(path: str) -> Study:
    """Validate the config; every problem is one sentence."""
    try:
        study = load_study(path)
    except NoisestepsError as error:
        sys.exit(f"noisesteps: error: {error}")
    if yaml.safe_load(Path(path).read_text()) != config:
        sys.exit(
            f"noisesteps: error: --config cannot change a study; edit {path}, so that its stages, run by "
            "hand or by Snakemake, see the same values."
        )
    return study


CONFIG_FILE = config_file()
STUDY = read_study(CONFIG_FILE)
PATHS = StudyPaths(STUDY.study)

# The jobs' environment. The config's name is here and not in params, so that a renamed
# file, or a second study that shares a download, reruns nothing. PATH lets a snakemake
# that was started by its path find its own Python; PYTHONPATH lets an environment that
# Snakemake made find the package.
os.environ.update(
    NOISESTEPS_CONFIG=CONFIG_FILE,
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")]),
    PYTHONPATH=str(PROJECT / "src"),
)


envvars:
    "NOISESTEPS_CONFIG",
    "PATH",
    "PYTHONPATH",


def hold_study():
    """Refuse a second Snakemake on the study, until this process ends.

    Snakemake's own lock outlives a kill and then has to be removed by hand; the profiles
    turn it off.
    """
    if not workflow.is_main_process:
        return
    try:
        LOCKS.enter_context(exclusive(StudyPaths(STUDY.study).root))
    except NoisestepsError as error:
        sys.exit(f"noisesteps: error: {error}")


def start_jobs_unmetered():
    """Lift Snakemake's limit of jobs a second where jobs run on this machine.

    Under the limit it looks for jobs again a second after each look, and after each
    finished job besides: hundreds of looks a second in the end, which take a good part
    of a core. Here jobs start when others end. A cluster keeps the limit.
    """
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


LOCKS = ExitStack()
atexit.register(LOCKS.close)
FIGURES = figures.figure_names(STUDY)
TABLES = tables.table_names(STUDY)
RESULT = "results/{study}"


wildcard_constraints:
    study=STUDY.study,
    dataset="|".join(STUDY.datasets),
    source="|".join([*STUDY.datasets, STUDY.evaluation.extractor]),
    version="[0-9a-f]{8}",
    schedule="linear|linear_scaled|cosine",
    steps=r"[1-9]\d*",
    repetition=r"(-seed[1-9]\d*)?",
    sampler=r"(/(ancestral|ddim)-[1-9]\d*)?",
    architecture="resnet18|vgg16",
    set="|".join([*get_args(SetName), "test"]),
    figure="|".join(FIGURES),
    table="|".join(TABLES),


def settings(stage):
    """Return a params function: the config values that `stage` reads."""

    def read(wildcards):
        run = run_of(wildcards) if hasattr(wildcards, "steps") else None
        source = getattr(wildcards, "dataset", getattr(wildcards, "source", None))
        return STUDY.settings(stage, run, dataset=source)

    return read


def run_of(wildcards):
    """Return the run that a job's wildcards name."""
    seed = wildcards.repetition.removeprefix("-seed") or 0
    sampler = getattr(wildcards, "sampler", "").removeprefix("/") or None
    steps = int(wildcards.steps)
    return Run(wildcards.dataset, wildcards.schedule, steps, int(seed), sampler)


def coordinates(wildcards):
    """Return the options that name a run on the command line."""
    run = run_of(wildcards)
    options = f"--dataset {run.dataset} --schedule {run.schedule} --steps {run.steps}"
    if run.seed:
        options += f" --training-seed {run.seed}"
    return options + (f" --sampler {run.sampler}" if run.sampler else "")


def minutes(stage):
    """Return a resources function: the time that a job of `stage` asks for."""
    return lambda wildcards, attempt: requested(stage, wildcards, attempt).minutes


def memory_mb(stage):
    """Return a resources function: the memory that a job of `stage` asks for."""
    return lambda wildcards, attempt: requested(stage, wildcards, attempt).memory_mb


def requested(stage, wildcards, attempt):
    dataset = wildcards.get("dataset")
    return needs(
        STUDY,
        stage,
        dataset=dataset,
        run=run_of(wildcards) if hasattr(wildcards, "steps") else None,
        images=counted_images(dataset),
        attempt=attempt,
    )


def counted_images(dataset):
    """Return how many images there are to train on; None before `preprocess` ran."""
    try:
        return read_json(StudyPaths(STUDY.study).data(dataset) / "dataset.json")[
            "train"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def gpu_job_threads():
    """Return the threads of a job that holds a GPU."""
    cores = workflow.global_resources.get("_cores").value or 4
    gpus = workflow.global_resources.get("gpu").value or 1
    return gpu_threads(cores, int(gpus))


def in_study(pattern, **values):
    return expand(pattern, study=STUDY.study, **values)


def records(paths):
    """Name files as Snakemake does: relative, as text."""
    return [path.as_posix() for path in paths]


def fetched(source):
    """Return the record of a download, or nothing where nothing is fetched."""
    if STUDY.distribution(source) is None:
        return []
    return str(STUDY.resource_folder(source) / "fetched.json")


def extractor_weights(wildcards):
    return fetched(STUDY.evaluation.extractor)


def set_inputs(wildcards):
    """Return the real images and the samples that a set is made of."""
    return records(
        [PATHS.data(name) / "dataset.json" for name in STUDY.classification.datasets]
        + [
            PATHS.samples(run) / "sample.json"
            for run in STUDY.runs_of_set(wildcards.set)
        ]
    )


def classifier_records():
    """Name the records of one set's classifiers, one a repetition."""
    repetitions = range(STUDY.classification.seeds if STUDY.classification else 1)
    record = f"{RESULT}/classification/{{architecture}}/{{set}}/seed{{seed}}.json"
    return expand(record, seed=repetitions, allow_missing=True)


def table_inputs(wildcards):
    """Return the records that a table is made of."""
    return records(tables.table_records(wildcards.table, STUDY, PATHS))


def figure_inputs(wildcards):
    """Return the tables, samples, losses and data sets that a figure shows."""
    return records(figures.figure_records(wildcards.figure, STUDY, PATHS))


def figure_labels(wildcards):
    kind, dataset = figure_kind(wildcards.figure, STUDY)
    return {"figure": figure_title(kind), "data set": dataset or "all"}


def table_labels(wildcards):
    part = [name for name in STUDY.datasets if wildcards.table == f"fid_{name}"]
    return {
        "table": table_title(wildcards.table),
        "data set": part[0] if part else "all",
    }


def all_figures(wildcards=None):
    """Name every figure's picture and record."""
    picture = f"{RESULT}/figures/{{figure}}.{{suffix}}"
    return in_study(picture, figure=FIGURES, suffix=["png", "json"])


def all_tables(wildcards=None):
    """Name every table and its record."""
    table = f"{RESULT}/tables/{{table}}.{{suffix}}"
    return in_study(table, table=TABLES, suffix=["csv", "json"])


def all_skipped(wildcards):
    """Name the lists of files that were skipped."""
    return in_study(f"{RESULT}/data/{{dataset}}/rejected.csv", dataset=STUDY.datasets)


def final_files():
    return all_figures() + all_tables() + in_study(f"{RESULT}/report.html")
