"""Which figures a study has, and what each one is drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from noisesteps.config import Study
from noisesteps.errors import ConfigError
from noisesteps.paths import Run, StudyPaths
from noisesteps.tables.inputs import CLASSIFIER_TABLES, table_names

# More rows than these cannot be told apart on a page.
MAX_ROWS = 20
# What the figures of a kind show, as a heading, in reading order.
TITLES = {
    "dataset": "Real images",
    "samples": "Generated images",
    "schedule": "What a schedule leaves of the image",
    "fid": "Score over T",
    "scores": "More scores over T",
    "fewer_steps": "Few steps, to train with or to sample with",
    "quality_vs_cost": "Score against time",
    "copies": "Closest to a training image",
    "generation_time": "Generation time",
    "classification": "Classifiers",
    "training_loss": "Training loss",
}
# Of these there is one for the whole study, of the others one for each data set.
OF_THE_STUDY = (
    "schedule", "fewer_steps", "quality_vs_cost", "generation_time", "classification",
)  # fmt: skip
# These exist where the table of the same name does: with this key of the config.
OPTIONAL = {
    "fewer_steps": "sampling.fewer_steps",
    "classification": "classification",
}


@dataclass(frozen=True)
class FigureInputs:
    """What a figure reads: names of tables, coordinates of runs, data sets."""

    tables: tuple[str, ...] = ()
    samples: tuple[Run, ...] = ()
    scores: tuple[Run, ...] = ()
    datasets: tuple[str, ...] = ()
    histories: tuple[Run, ...] = ()


def figure_kinds(study: Study) -> dict[str, tuple[str, str | None]]:
    """Map each figure's name to its kind and its data set, in reading order."""
    kinds: dict[str, tuple[str, str | None]] = {}
    for kind in TITLES:
        if kind in OPTIONAL and kind not in table_names(study):
            continue
        names = [None] if kind in OF_THE_STUDY else study.datasets
        kinds |= {f"{kind}_{name}" if name else kind: (kind, name) for name in names}
    return kinds


def figure_title(kind: str) -> str:
    """Return the heading of a kind of figures."""
    return TITLES.get(kind, kind.replace("_", " ").capitalize())


def figure_names(study: Study) -> list[str]:
    """List the figures of a study."""
    return list(figure_kinds(study))


def figure_kind(figure: str, study: Study) -> tuple[str, str | None]:
    """Return a figure's kind and its data set.

    Raises
    ------
    ConfigError
        If `figure` is not one of `figure_names(study)`.
    """
    kinds = figure_kinds(study)
    for optional, needed in OPTIONAL.items():
        if figure == optional and optional not in kinds:
            raise ConfigError(
                f"figure {figure} needs the key `{needed}`, which the study lacks; "
                "add it or leave the figure out."
            )
    if figure not in kinds:
        raise ConfigError(
            f"there is no figure {figure}; choose one of {', '.join(kinds)}."
        )
    return kinds[figure]


def evenly(count: int, total: int) -> list[int]:
    """Return up to `count` indices below `total`, evenly spread, both ends included."""
    if count >= total:
        return list(range(total))
    return [round(place * (total - 1) / max(count - 1, 1)) for place in range(count)]


def rows_shown(study: Study) -> list[int]:
    """Return the values of T that a grid has rows for, in ascending order.

    Of more than `MAX_ROWS` values, that many are taken evenly.
    """
    steps = sorted(study.diffusion.steps)
    return [steps[place] for place in evenly(MAX_ROWS, len(steps))]


def first_runs(dataset: str, study: Study) -> list[Run]:
    """List a data set's runs without the repetitions of their training."""
    return [run for run in study.runs_of(dataset) if run.seed == 0]


def classifier_tables(study: Study) -> tuple[str, ...]:
    """Name the tables of the classifiers that the study has."""
    return tuple(name for name in CLASSIFIER_TABLES if name in table_names(study))


def figure_inputs(figure: str, study: Study) -> FigureInputs:
    """Say what a figure is drawn from.

    Raises
    ------
    ConfigError
        If the study has no figure of that name.
    """
    kind, dataset = figure_kind(figure, study)
    match kind:
        case "dataset":
            return FigureInputs(datasets=(dataset,))
        case "samples":
            shown = rows_shown(study)
            runs = [run for run in first_runs(dataset, study) if run.steps in shown]
            return FigureInputs(samples=tuple(runs))
        case "schedule":
            return FigureInputs(tables=("models",), datasets=tuple(study.datasets))
        case "fid":
            return FigureInputs(tables=(figure,))
        case "scores":
            return FigureInputs(tables=(f"fid_{dataset}", "floor"))
        case "fewer_steps":
            return FigureInputs(tables=("fewer_steps", "fid"))
        case "quality_vs_cost":
            return FigureInputs(tables=("quality_vs_cost", "fid", "generation_time"))
        case "copies":
            respaced = study.respaced_runs_of(dataset)
            runs = (
                *first_runs(dataset, study),
                *(run for run in respaced if run.seed == 0),
            )
            return FigureInputs(
                tables=("copies",), samples=runs, scores=runs, datasets=(dataset,)
            )
        case "generation_time":
            return FigureInputs(tables=("generation_time",))
        case "classification":
            return FigureInputs(tables=classifier_tables(study))
    return FigureInputs(histories=tuple(first_runs(dataset, study)))


def figure_records(figure: str, study: Study, paths: StudyPaths) -> list[Path]:
    """List the files of other stages that a figure is made of, and their records."""
    reads = figure_inputs(figure, study)
    described = dict.fromkeys(paths.reference(run.dataset) for run in reads.scores)
    return [
        *(paths.table(name, end) for name in reads.tables for end in (".csv", ".json")),
        *_in(map(paths.data, reads.datasets), "images.npy", "dataset.json"),
        *_in(map(paths.samples, reads.samples), "images.npy", "sample.json"),
        *_in(map(paths.score, reads.scores), "nearest.csv", "score.json"),
        *_in(described, "nearest.csv", "reference.json"),
        *_in(map(paths.model, reads.histories), "history.csv", "model.json"),
    ]


def _in(folders: Iterable[Path], *names: str) -> Iterator[Path]:
    return (folder / name for folder in folders for name in names)
