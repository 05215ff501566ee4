"""A study beside the dissertation as Markdown, also while the study lacks models."""

from __future__ import annotations

from collections.abc import Mapping

from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.errors import StageError
from noisesteps.paths import Run, StudyPaths
from noisesteps.report import comparison, records
from noisesteps.report.cells import Table, make_table
from noisesteps.tables import tabulate
from noisesteps.tables.inputs import table_records
from noisesteps.tables.records import record_path

RUN = ["dataset", "schedule", "steps", "training_seed"]
SCORES = [
    "dataset", "schedule", "steps", "metric", "value", "low", "high", "real_floor",
    "terminal_signal", "images", "dissertation_fid",
]  # fmt: skip
NOT_FID = (
    "The dissertation's numbers are FID: another measure, whose values compare with "
    "none of this study's; the course over T does."
)


def compared(study: Study, paths: StudyPaths) -> str:
    """Return the tables; see `noisesteps.report.beside_the_dissertation`."""
    runs = [run for run in study.runs if record_path("score", run, paths).exists()]
    if not runs:
        raise StageError(
            f"{paths.root} has no model with a score; run the stages up to score first."
        )
    tables = _tables(study, paths, runs)
    part = _part(study, runs)
    counts = records.datasets(part, paths).set_index("dataset")["training_images"]
    conditions = comparison.conditions(part, tables, counts)
    return "\n\n".join(
        [
            f"{len(runs)} of {len(study.runs)} models have a score. "
            f"Device: {records.joined(tables['models']['device'])}.",
            as_markdown(_scores(tables["fid"])),
            as_markdown(_times(tables)),
            *map(_beside, comparison.compare(conditions, tables)),
            as_markdown(comparison.differences(conditions)),
        ]
    )


def _tables(study: Study, paths: StudyPaths, runs: list[Run]) -> dict[str, DataFrame]:
    """Gather what there is: of the models, and of the classifiers once all are done."""
    names = ["models", "fid", "generation_time"]
    table = "classification"
    if study.classification and all(
        path.exists() for path in table_records(table, study, paths)
    ):
        names.append(table)
    return {name: tabulate(name, study, paths, runs) for name in names}


def _part(study: Study, runs: list[Run]) -> Study:
    """Return the study with the data sets and the grid of some of its models alone."""
    found = {run.dataset: study.datasets[run.dataset] for run in runs}
    grid = {
        "schedules": list(dict.fromkeys(run.schedule for run in runs)),
        "steps": sorted({run.steps for run in runs}),
    }
    diffusion = study.diffusion.model_copy(update=grid)
    return study.model_copy(update={"datasets": found, "diffusion": diffusion})


def _scores(fid: DataFrame) -> Table:
    note = "" if set(fid["metric"]) == {"FID"} else NOT_FID
    return make_table("scores", "Scores; lower is better", fid[SCORES], note)


def _times(tables: Mapping[str, DataFrame]) -> Table:
    """Put the time that training took beside that of sampling."""
    models = tables["models"].rename(columns={"seconds": "training_seconds"})
    sampled = tables["generation_time"].rename(columns={"seconds": "sampling_seconds"})
    sampled = sampled[[*RUN, "sampling_seconds", "images", "batch_size"]]
    columns = [*RUN, "optimizer_steps", "final_loss", "training_seconds", "device"]
    frame = models[columns].merge(sampled, on=RUN)
    return make_table("times", "Losses and times", frame)


def _beside(compared: comparison.Comparison) -> str:
    """Write a table of the dissertation's, or why it has no number of this study."""
    table = compared.table
    if not any(words.startswith("this study") for words, _ in table.headings):
        return f"**{table.title}**\n\n{compared.verdict}"
    return f"{as_markdown(table)}\n\n{compared.verdict}"


def as_markdown(table: Table) -> str:
    """Write a table: its title, the rows, what every row says, and its note."""
    heads = [_escaped(words) for words, _ in table.headings]
    rules = ["---:" if number else "---" for _, number in table.headings]
    rows = [[_escaped(cell.text) for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
    said = [f"Everywhere: {'; '.join(table.same)}."] if table.same else []
    below = " ".join([*said, table.note]).strip()
    return "\n".join(
        [f"**{table.title}**", "", *lines, *(["", below] if below else [])]
    )


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")
