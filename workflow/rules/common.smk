"""What the rules share: the validated study, wildcard constraints, input functions."""

import atexit
import os
import sys
from contextlib import ExitStack
from pathlib import Path

PROJECT = Path(workflow.basedir)
sys.path.insert(0, str(PROJECT / "src"))


import yaml

from noisesteps import figures, tables
from noisesteps.config import Study, load_study
from noisesteps.errors import NoisestepsError
from noisesteps.locks import exclusive
from noisesteps.paths import Run, StudyPaths


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


LOCKS = ExitStack()
atexit.register(LOCKS.close)
FIGURES = figures.figure_names(STUDY)
TABLES = tables.table_names(STUDY)
RESULT = "results/{study}"
RUN = "{dataset}/{schedule}/T{steps}"


wildcard_constraints:
    study=STUDY.study,
    dataset="|".join(STUDY.datasets),
    source="|".join([*STUDY.datasets, STUDY.evaluation.extractor]),
    version="[0-9a-f]{8}",
    schedule="linear|linear_scaled|cosine",
    steps=r"[1-9]\d*",
    architecture="resnet18|vgg16",
    set="origin|synthesis|mix",
    seed=r"\d+",
    figure="|".join(FIGURES),
    table="|".join(TABLES),


def settings(stage):
    """Return a params function: the config values that `stage` reads."""

    def read(wildcards):
        run = None
        if hasattr(wildcards, "steps"):
            run = Run(wildcards.dataset, wildcards.schedule, int(wildcards.steps))
        source = getattr(wildcards, "dataset", getattr(wildcards, "source", None))
        return STUDY.settings(stage, run, dataset=source)

    return read


def gpu_threads():
    """Share the cores among the jobs that hold a GPU, leaving one for the others."""
    cores = workflow.global_resources.get("_cores").value or 4
    gpus = workflow.global_resources.get("gpu").value or 1
    share = max(1, cores // int(gpus))
    return share - 1 if cores > 4 and share > 1 else share


def in_study(pattern, **values):
    return expand(pattern, study=STUDY.study, **values)


def of_runs(pattern, runs):
    """Fill a pattern that ends in the coordinates of a run."""
    return [
        path
        for run in runs
        for path in in_study(
            pattern, dataset=run.dataset, schedule=run.schedule, steps=run.steps
        )
    ]


def fetched(source):
    """Return the record of a download, or nothing where nothing is fetched."""
    if STUDY.distribution(source) is None:
        return []
    return str(STUDY.resource_folder(source) / "fetched.json")


def extractor_weights(wildcards):
    return fetched(STUDY.evaluation.extractor)


def classification_runs():
    chosen = STUDY.classification
    return [Run(name, chosen.schedule, chosen.steps) for name in chosen.datasets]


def set_inputs(wildcards):
    """Return the real images and the samples that the training sets are made of."""
    names = STUDY.classification.datasets
    return in_study("results/{study}/data/{dataset}/dataset.json", dataset=names) + (
        of_runs(f"{RESULT}/samples/{RUN}/sample.json", classification_runs())
    )


def classifiers():
    """Return every classifier's accuracy file."""
    chosen = STUDY.classification
    return in_study(
        f"{RESULT}/classification/{{architecture}}/{{set}}/seed{{seed}}.json",
        architecture=chosen.architectures,
        set=chosen.sets,
        seed=range(chosen.seeds),
    )


def table_inputs(wildcards):
    """Return the records that a table is made of."""
    kind = tables.record_kind(wildcards.table)
    if kind == "classifier":
        return classifiers()
    runs = tables.table_runs(wildcards.table, STUDY)
    place = {"model": "models", "sample": "samples", "score": "metrics"}[kind]
    records = of_runs(f"{RESULT}/{place}/{RUN}/{kind}.json", runs)
    if kind == "score":
        names = list(dict.fromkeys(run.dataset for run in runs))
        records += in_study(
            f"{RESULT}/metrics/{{dataset}}/reference.json", dataset=names
        )
    return records


def figure_inputs(wildcards):
    """Return the tables, samples, losses and data sets that a figure shows."""
    reads = figures.figure_inputs(wildcards.figure, STUDY)
    return (
        in_study(f"{RESULT}/tables/{{table}}.csv", table=reads.tables)
        + in_study(f"{RESULT}/data/{{dataset}}/dataset.json", dataset=reads.datasets)
        + of_runs(f"{RESULT}/samples/{RUN}/sample.json", reads.samples)
        + of_runs(f"{RESULT}/models/{RUN}/history.csv", reads.histories)
    )


def figure_labels(wildcards):
    return {"figure": wildcards.figure.replace("_", " ")}


def all_figures(wildcards=None):
    return in_study(f"{RESULT}/figures/{{figure}}.png", figure=FIGURES)


def all_tables(wildcards=None):
    return in_study(f"{RESULT}/tables/{{table}}.csv", table=TABLES)


def final_files():
    return all_figures() + all_tables() + in_study(f"{RESULT}/report.html")
