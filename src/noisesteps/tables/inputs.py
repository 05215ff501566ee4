"""Which tables a study has, and which runs and files each one reads."""

from __future__ import annotations

from pathlib import Path

from noisesteps.config import Study
from noisesteps.errors import ConfigError
from noisesteps.paths import Run, StudyPaths
from noisesteps.tables.records import record_path

# The tables of runs, and the stage whose records each is made of.
STAGES = {
    "training_time": "train",
    "models": "train",
    "generation_time": "sample",
    "fid": "score",
    "scores": "score",
    "plateau": "score",
    "schedules": "score",
    "fewer_steps": "score",
    "quality_vs_cost": "score",
    "copies": "score",
}
# These also read reference.json of every data set they cover.
WITH_REFERENCE = ("fid", "copies")
RESPACED = ("scores", "fewer_steps", "quality_vs_cost", "copies")
CLASSIFIER_TABLES = ("classification", "classification_effects", "classifiers")
# Which sets of the classifiers are compared: the first minus the second. Mix against
# what it adds images to, and against the controls of its size; then what generated
# images do alone, and what ordinary augmentation does.
COMPARISONS = (
    ("mix", "origin"),
    ("mix", "origin_repeated"),
    ("mix", "origin_augmented"),
    ("synthesis", "origin"),
    ("origin_augmented", "origin"),
)
# What a reader calls the tables, in reading order.
TITLES = {
    "fid": "Scores",
    "plateau": "Which T is best",
    "schedules": "Other schedules against linear, at the same T",
    "fewer_steps": "Few steps in training, or only in sampling",
    "quality_vs_cost": "Score against the time an image takes",
    "floor": "Real images, scored the same way",
    "copies": "Near-copies of training images",
    "training_time": "Training time",
    "generation_time": "Generation time",
    "classification": "Classification",
    "classification_effects": "Classification: differences between training sets",
    "models": "Models",
    "scores": "Every score",
    "classifiers": "Every classifier",
}


def table_names(study: Study) -> list[str]:
    """List the tables of a study."""
    names = [*STAGES, "floor", *(f"fid_{dataset}" for dataset in study.datasets)]
    if not {"linear"} < set(study.diffusion.schedules):
        names.remove("schedules")
    if not study.fewer_steps:
        names.remove("fewer_steps")
    return names + [name for name in CLASSIFIER_TABLES if _has(name, study)]


def _has(table: str, study: Study) -> bool:
    if study.classification is None:
        return False
    return table != "classification_effects" or bool(comparisons(study))


def comparisons(study: Study) -> list[tuple[str, str]]:
    """List the pairs of sets that are compared: those of which the study has both."""
    sets = study.classification.sets
    return [pair for pair in COMPARISONS if set(pair) <= set(sets)]


def table_title(table: str) -> str:
    """Return what a reader calls a table; `fid_{dataset}` is called as `fid` is."""
    name = "fid" if table.startswith("fid_") else table
    return TITLES.get(name, name.replace("_", " ").capitalize())


def check_table(table: str, study: Study) -> None:
    """Refuse a table that the study does not have.

    Raises
    ------
    ConfigError
        If `table` is not one of `table_names(study)`.
    """
    if table in CLASSIFIER_TABLES and study.classification is None:
        raise ConfigError(
            f"table {table} needs the key `classification`, which the study lacks; "
            "add it or leave the table out."
        )
    if table not in table_names(study):
        raise ConfigError(
            f"there is no table {table}; choose one of {', '.join(table_names(study))}."
        )


def table_runs(table: str, study: Study) -> list[Run]:
    """List the runs whose records a table reads, in the order of its rows.

    The floor and the tables of the classifiers read no run.
    """
    check_table(table, study)
    if table in (*CLASSIFIER_TABLES, "floor"):
        return []
    if table.startswith("fid_"):
        return study.runs_of(table.removeprefix("fid_"))
    respaced = table in RESPACED
    return [
        run
        for dataset in study.datasets
        for run in study.runs_of(dataset)
        + (study.respaced_runs_of(dataset) if respaced else [])
    ]


def table_records(table: str, study: Study, paths: StudyPaths) -> list[Path]:
    """List the JSON records that a table is made of."""
    if table in CLASSIFIER_TABLES:
        return [paths.classifier(*names) for names in classifier_runs(study)]
    runs = table_runs(table, study)
    kind = "fid" if table.startswith("fid_") else table
    if table == "floor":
        datasets = list(study.datasets)
    else:
        covered = runs if kind in WITH_REFERENCE else []
        datasets = list(dict.fromkeys(run.dataset for run in covered))
    records = [record_path(STAGES[kind], run, paths) for run in runs]
    return records + [paths.reference(name) / "reference.json" for name in datasets]


def classifier_runs(study: Study) -> list[tuple[str, str, int]]:
    """List the architecture, set and seed of every classifier."""
    chosen = study.classification
    return [
        (architecture, name, seed)
        for architecture in chosen.architectures
        for name in chosen.sets
        for seed in range(chosen.seeds)
    ]
