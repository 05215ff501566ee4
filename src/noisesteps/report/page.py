"""Gather what the report shows, and fill its template."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.errors import StageError
from noisesteps.figures import caption, figure_names
from noisesteps.paths import StudyPaths
from noisesteps.report import findings
from noisesteps.tables import dissertation, read_table, table_names
from noisesteps.tables.records import read_record

TEMPLATE = "report.html.j2"
TABLE_TITLES = {
    "fid": "Scores",
    "training_time": "Training time",
    "generation_time": "Generation time",
    "classification": "Classification",
    "classification_effects": "Classification: differences between training sets",
    "models": "Models",
    "classifiers": "Every classifier",
}
DISSERTATION_TITLES = {
    "training_time": "Table 4.1: mean training time of a model, hours",
    "fid": "Table 4.2: FID of 128 generated images",
    "generation_time": "Table 4.3: time to generate 128 images of 128 × 128 pixels",
    "classification": "Table 4.4: accuracy, flowers against butterflies",
}


def render(study: Study, paths: StudyPaths, config_file: str) -> str:
    """Return the report as HTML; every text is escaped."""
    tables = {
        name: read_table(name, paths)
        for name in table_names(study)
        if name in TABLE_TITLES
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        study=study,
        setting=_setting(study, paths, tables),
        findings=_findings(study, tables),
        figures=[_figure(name, study, paths) for name in figure_names(study)],
        tables=[_table(TABLE_TITLES[name], tables[name]) for name in TABLE_TITLES
                if name in tables],
        costs=_costs(tables),
        published=_published(),
        provenance=_provenance(study, paths),
        settings=json.dumps(study.model_dump(mode="json"), indent=2),
        command=f"snakemake --configfile {config_file} --force {paths.root}/figures/",
    )  # fmt: skip


def _setting(
    study: Study, paths: StudyPaths, tables: dict[str, DataFrame]
) -> list[tuple[str, str]]:
    """Say what was run, as pairs of a name and its value."""
    training, sampling = study.training, study.sampling
    length = (
        f"{training.optimizer_steps:,} updates"
        if training.optimizer_steps
        else f"{training.epochs} epochs"
    )
    scores, parameters = tables["fid"], tables["models"]["parameters"].iloc[0]
    steps = ", ".join(f"{value:,}" for value in sorted(study.diffusion.steps))
    return [
        *((f"Data set {name}", _counts(name, paths)) for name in study.datasets),
        ("Schedules", ", ".join(study.diffusion.schedules)),
        ("Noise steps T", steps),
        ("Models", f"{len(study.runs):,}, one for each data set, schedule and T"),
        ("Network", f"{study.network.preset}, {parameters:,} parameters"),
        ("Training", f"{length}, batch {training.batch_size}, {training.precision}"),
        ("Sampling", f"{sampling.images:,} images a model, {sampling.method}"),
        (
            "Score",
            f"{scores['metric'].iloc[0]}, extractor {study.evaluation.extractor}",
        ),
    ]


def _counts(dataset: str, paths: StudyPaths) -> str:
    names = ("train", "held_out", "rejected", "image_size")
    path = paths.data(dataset) / "dataset.json"
    counts = read_record(path, "preprocess", names)
    size = counts["image_size"]
    return (
        f"{counts['train']:,} training and {counts['held_out']:,} held-out images, "
        f"{counts['rejected']:,} rejected, {size} × {size} pixels"
    )


def _findings(
    study: Study, tables: dict[str, DataFrame]
) -> list[tuple[str, list[str]]]:
    found = [
        (dataset, findings.about_scores(rows))
        for dataset, rows in tables["fid"].groupby("dataset", sort=False)
    ]
    cost = findings.about_time(tables["generation_time"], study)
    found.append(("Cost", cost + findings.about_training(tables["training_time"])))
    if "classification" in tables:
        effects = tables.get("classification_effects")
        sentences = [] if effects is None else findings.about_effects(effects)
        sentences += findings.about_classifiers(tables["classification"])
        found.append(("Do generated images help a classifier?", sentences))
    return found


def _figure(name: str, study: Study, paths: StudyPaths) -> dict[str, Any]:
    path = paths.figure(name)
    if not path.is_file():
        raise StageError(
            f"{path} is missing; run the stage draw for figure {name} first."
        )
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # of the PNG header
    return {
        "name": name,
        "caption": caption(name, study, paths),
        "data": base64.b64encode(content).decode("ascii"),
        "width": width,
        "height": height,
    }


def _table(title: str, frame: DataFrame) -> dict[str, Any]:
    """Prepare a table: empty columns are left out, constant text is said once."""
    frame = frame.dropna(axis="columns", how="all")
    constant = [
        column
        for column in frame.select_dtypes(exclude="number")
        if len(frame) > 1 and frame[column].nunique() == 1
    ]
    said = [f"{column} {frame[column].iloc[0]}" for column in constant]
    frame = frame.drop(columns=constant)
    return {
        "title": title,
        "constant": said,
        "columns": [column.replace("_", " ") for column in frame.columns],
        "rows": [
            [_cell(value) for value in row] for row in frame.astype(object).values
        ],
    }


def _cell(value: Any) -> tuple[str, bool]:
    """Write a value for a reader, and say whether it is a number."""
    if isinstance(value, str):
        return value, False
    if value != value or str(value) == "<NA>":
        return "–", True
    if float(value).is_integer():
        return f"{int(value):,}", True
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}", True


def _costs(tables: dict[str, DataFrame]) -> dict[str, Any]:
    """Add up the time of every stage that computes."""
    stages = [("training", tables["models"]), ("sampling", tables["generation_time"])]
    if "classifiers" in tables:
        stages.append(("classification", tables["classifiers"]))
    rows = [
        {
            "stage": stage,
            "jobs": len(frame),
            "seconds": frame["seconds"].sum(),
            "hours": frame["seconds"].sum() / 3600,
            "device": "; ".join(dict.fromkeys(frame["device"])),
        }
        for stage, frame in stages
    ]
    return _table("Computing time by stage", DataFrame(rows))


def _published() -> list[dict[str, Any]]:
    frames = {name: dissertation(name) for name in DISSERTATION_TITLES}
    frames["fid"] = (
        frames["fid"]
        .pivot(index="steps", columns="dataset", values="fid")
        .reset_index()
    )
    return [_table(title, frames[name]) for name, title in DISSERTATION_TITLES.items()]


def _provenance(study: Study, paths: StudyPaths) -> list[tuple[str, str]]:
    """Merge the provenance of every model: what differs is listed side by side."""
    records = [
        read_record(paths.model(run) / "model.json", "train", ["provenance"])[
            "provenance"
        ]
        for run in study.runs
    ]
    started = sorted(record["started"] for record in records)
    revisions = [record["code"]["revision"] or "no commit" for record in records]
    digests = [record["code"]["sha256"] for record in records]
    libraries = [
        f"{name} {version}"
        for record in records
        for name, version in record["libraries"].items()
    ]
    return [
        ("Seed", str(study.seed)),
        ("Models trained", f"{started[0]} to {started[-1]} (start times)"),
        ("Device", _distinct([record["device"] or "unknown" for record in records])),
        ("Code revision", _distinct(revisions)),
        ("SHA-256 of the code", _distinct(digests)),
        ("Libraries", _distinct(libraries)),
    ]


def _distinct(values: list[str]) -> str:
    return ", ".join(dict.fromkeys(values))
