"""Which tables a study has, and which runs and files each one reads."""

from __future__ import annotations

from noisesteps.config import Study
from noisesteps.errors import ConfigError
from noisesteps.paths import Run

# The tables of runs, and the record that each is made of.
RECORDS = {
    "training_time": "model",
    "models": "model",
    "generation_time": "sample",
    "fid": "score",
}
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


def table_names(study: Study) -> list[str]:
    """List the tables of a study."""
    names = [*RECORDS, *(f"fid_{dataset}" for dataset in study.datasets)]
    return names + [name for name in CLASSIFIER_TABLES if _has(name, study)]


def _has(table: str, study: Study) -> bool:
    if study.classification is None:
        return False
    return table != "classification_effects" or bool(comparisons(study))


def comparisons(study: Study) -> list[tuple[str, str]]:
    """List the pairs of sets that are compared: those of which the study has both."""
    sets = study.classification.sets
    return [pair for pair in COMPARISONS if set(pair) <= set(sets)]


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


def record_kind(table: str) -> str:
    """Name the record a table is made of: model, sample, score or classifier.

    A table of scores also reads `reference.json` of every data set it covers.
    """
    if table in CLASSIFIER_TABLES:
        return "classifier"
    return RECORDS["fid" if table.startswith("fid_") else table]


def table_runs(table: str, study: Study) -> list[Run]:
    """List the runs whose records a table reads, in the order of its rows.

    The tables of the classifiers read no run: theirs are the classifiers' own files.
    """
    check_table(table, study)
    if table in CLASSIFIER_TABLES:
        return []
    if table.startswith("fid_"):
        return study.runs_of(table.removeprefix("fid_"))
    return study.runs


def classifier_runs(study: Study) -> list[tuple[str, str, int]]:
    """List the architecture, set and seed of every classifier."""
    chosen = study.classification
    return [
        (architecture, name, seed)
        for architecture in chosen.architectures
        for name in chosen.sets
        for seed in range(chosen.seeds)
    ]
