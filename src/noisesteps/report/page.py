"""Gather what the report shows, and fill its template."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import struct
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.figures import caption, figure_names
from noisesteps.figures.inputs import figure_kind, figure_title
from noisesteps.paths import StudyPaths
from noisesteps.records import recorded
from noisesteps.report import cells, comparison, findings, records
from noisesteps.tables import read_table, table_names
from noisesteps.tables.inputs import TITLES, table_title

FOLDER = Path(__file__).parent
TEMPLATE, STYLE, SCRIPT = "report.html.j2", "report.css", "report.js"
SCHEDULES = {
    "linear": "β from 1e-4 to 0.02 whatever T is: a small T leaves part of the image "
    "in x_T",
    "linear_scaled": "β from 1e-4 to 0.02, all times 1000/T and at most 0.999: x_T is "
    "nearly pure noise for a small T too",
    "cosine": "Nichol and Dhariwal's: x_T is nearly pure noise",
}


def render(study: Study, paths: StudyPaths, config_file: str) -> str:
    """Return the report as HTML; every text is escaped."""
    tables = _read_tables(study, paths)
    found = records.stage_records(study, paths)
    datasets = records.datasets(study, paths)
    conditions = comparison.conditions(
        study, tables, datasets.set_index("dataset")["training_images"]
    )
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tied"] = _tied
    return environment.get_template(TEMPLATE).render(
        **_inline(),
        study=study,
        summary=_summary(study, tables, datasets),
        findings=findings.tell(study, tables),
        cautions=findings.cautions(study),
        setting=_setting(study, tables),
        datasets=_datasets(datasets),
        skipped=records.skipped(study, paths),
        figures=_figures(study, paths, config_file),
        numbers={name: n for n, name in enumerate(figure_names(study), start=1)},
        tables=[_table(name, tables[name], paths) for name in tables],
        differences=comparison.differences(conditions),
        comparisons=comparison.compare(conditions, tables),
        costs=_costs(found),
        provenance=_provenance(study, found, datasets),
        origins=cells.make_table(
            "origins", "When each stage ran", records.origins(found)
        ),
        settings=yaml.safe_dump(
            study.model_dump(mode="json"), sort_keys=False, default_flow_style=None
        ),
        commands=_commands(paths, config_file),
    )


def _tied(text: str) -> str:
    """Keep `T = 600` on one line."""
    return re.sub(r"\b([TNp]) ([=<]) ", "\\1\u00a0\\2\u00a0", text)


def _read_tables(study: Study, paths: StudyPaths) -> dict[str, DataFrame]:
    """Read every table but `fid_{dataset}`, whose rows `fid` has too."""
    parts = {f"fid_{dataset}" for dataset in study.datasets}
    names = [name for name in table_names(study) if name not in parts]
    order = [*TITLES, *names]
    return {name: read_table(name, paths) for name in sorted(names, key=order.index)}


def _inline() -> dict[str, str]:
    """Return the style and the script with the digests that the page's policy names.

    A browser then runs and applies these, and nothing else.
    """
    values = {}
    for name, file in (("style", STYLE), ("script", SCRIPT)):
        text = (FOLDER / file).read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).digest()
        values[name] = text
        values[f"{name}_digest"] = f"sha256-{base64.b64encode(digest).decode()}"
    return values


def _summary(
    study: Study, tables: dict[str, DataFrame], datasets: DataFrame
) -> list[str]:
    """Say in a few sentences what was run, and on what."""
    scores, models, steps = tables["fid"], tables["models"], study.diffusion.steps
    size = study.preprocess.image_size
    sets = ", ".join(
        f"{name} ({count:,} training images)"
        for name, count in zip(
            datasets["dataset"], datasets["training_images"], strict=True
        )
    )
    span = f"{min(steps):,} to {max(steps):,}" if len(steps) > 1 else f"{steps[0]:,}"
    seeds = study.training.seeds
    repeated = f", each trained {seeds} times" if seeds > 1 else ""
    return [
        f"{len(models):,} diffusion models were trained on images of {size} × {size} "
        f"pixels: {_counted(study.datasets, 'data set')} × "
        f"{_counted(study.diffusion.schedules, 'beta schedule')} "
        f"({', '.join(study.diffusion.schedules)}) × "
        f"{_counted(steps, 'value')} of T ({span}){repeated}.",
        f"Schedules: {_explained(study.diffusion.schedules)}.",
        f"Data: {sets}.",
        f"A score compares N = {study.sampling.images:,} generated images with the "
        f"training images: {scores['metric'].iloc[0]}, extractor "
        f"{study.evaluation.extractor}; lower is better. Each model "
        f"has {_scores(study.sampling.seeds)}.",
        f"Device: {records.joined(models['device'])}.",
    ]


def _explained(schedules: list[str]) -> str:
    return "; ".join(f"{name} ({SCHEDULES[name]})" for name in schedules)


def _scores(count: int) -> str:
    return "one score" if count == 1 else f"{count} scores, of different images"


def _counted(items: Any, noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _setting(study: Study, tables: dict[str, DataFrame]) -> list[tuple[str, str]]:
    """Say how it was run, as pairs of a name and its value."""
    training, sampling = study.training, study.sampling
    length = (
        f"{training.optimizer_steps:,} updates"
        if training.optimizer_steps
        else f"{training.epochs} epochs"
    )
    parameters = tables["models"]["parameters"].iloc[0]
    return [
        ("Beta schedules", ", ".join(study.diffusion.schedules)),
        (
            "Noise steps T",
            ", ".join(f"{value:,}" for value in sorted(study.diffusion.steps)),
        ),
        ("Network", f"{study.network.preset}, {parameters:,} parameters"),
        ("Training", f"{length}, batch {training.batch_size}, {training.precision}"),
        ("Trainings", f"{training.seeds} of each model"),
        ("Sampling", _sampling(study)),
        (
            "Score",
            f"{tables['fid']['metric'].iloc[0]} of N = {sampling.images:,} images, "
            f"extractor {study.evaluation.extractor}; {sampling.seeds} of each model",
        ),
        *_classifier_setting(study),
    ]


def _sampling(study: Study) -> str:
    sampling, fewer = study.sampling, study.sampling.fewer_steps
    steps = f"{sampling.sampling_steps or 'all T'} steps"
    more = (
        f"; the models of the largest T also by {', '.join(fewer.methods)} in "
        f"{', '.join(map(str, study.fewer_steps))} steps"
        if fewer
        else ""
    )
    return f"{sampling.method}, {steps}, {sampling.precision}{more}"


def _classifier_setting(study: Study) -> list[tuple[str, str]]:
    chosen = study.classification
    if chosen is None:
        return []
    return [
        (
            "Classifiers",
            f"{', '.join(chosen.architectures)} on {', '.join(chosen.sets)}; "
            f"{' against '.join(chosen.datasets)}; {chosen.images_per_class:,} images "
            f"a class; {chosen.seeds} seeds; generated with {chosen.schedule}, "
            f"T = {chosen.steps:,}",
        )
    ]


def _datasets(counts: DataFrame) -> cells.Table:
    return cells.make_table(
        "datasets",
        "Files and images of each data set",
        counts.drop(columns="sha256"),
        "No diffusion model is trained on held-out images. Those that equal a training "
        "image, where a set keeps duplicates, are left out of what real images score, "
        "of their near-copies and of the classifiers' test. Files that were found and "
        "are neither used nor skipped were not asked for.",
    )


@dataclass(frozen=True)
class Figure:
    """A figure ready for the template: its words, its PNG in base64, its size.

    `command` draws it again.
    """

    name: str
    title: str
    text: str
    alt: str
    data: str
    width: int
    height: int
    command: str


def _figures(
    study: Study, paths: StudyPaths, config_file: str
) -> list[tuple[str, str, list[Figure]]]:
    """Return every kind of figure: an anchor, a heading and its figures."""
    names = groupby(figure_names(study), lambda name: figure_kind(name, study)[0])
    return [
        (
            f"figures-{kind}",
            figure_title(kind),
            [_figure(name, study, paths, config_file) for name in group],
        )
        for kind, group in names
    ]


def _figure(name: str, study: Study, paths: StudyPaths, config_file: str) -> Figure:
    path = recorded(paths.figure(name), f"{name}.json", f"draw --figure {name}")
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # of the PNG header
    words = caption(name, study, paths)
    return Figure(
        name, words.title, words.text, words.alt,
        base64.b64encode(content).decode("ascii"), width, height,
        _again(config_file, path),
    )  # fmt: skip


def _again(config_file: str, path: Path) -> str:
    """Return the command that makes one file of the study again."""
    return (
        f"snakemake --configfile {shlex.quote(config_file)} --force "
        f"{shlex.quote(path.as_posix())}"
    )


def _table(name: str, frame: DataFrame, paths: StudyPaths) -> cells.Table:
    if name.startswith("classification"):
        frame = frame.rename(
            columns=lambda column: column.replace(
                "difference", "difference_of_accuracy"
            )
        )
    source = paths.table(name).as_posix()
    return cells.make_table(f"table-{name}", table_title(name), frame, source=source)


def _costs(found: list[records.Record]) -> cells.Table:
    began = min(record.started for record in found)
    ended = max(record.ended for record in found)
    total = sum(record.seconds for record in found)
    return cells.make_table(
        "costs-by-stage",
        "Computing time by stage",
        records.costs(found),
        f"Together {cells.duration(total)} of computing, between "
        f"{began:%Y-%m-%d %H:%M} and {ended:%Y-%m-%d %H:%M} UTC. Jobs that ran side by "
        "side are added up.",
    )


def _provenance(
    study: Study, found: list[records.Record], datasets: DataFrame
) -> list[tuple[str, str]]:
    """Say with what the study was made; what differs is listed side by side."""
    records_of = [record.provenance for record in found]
    revisions = [record["code"]["revision"] or "no commit" for record in records_of]
    weights = [record.extractor_sha256 for record in found if record.extractor_sha256]
    return [
        ("Code revision", records.joined(revisions)),
        (
            "SHA-256 of the code",
            records.joined(record["code"]["sha256"] for record in records_of),
        ),
        ("Libraries", records.libraries(found)),
        (
            "Devices",
            records.joined(
                record["device"] for record in records_of if record["device"]
            ),
        ),
        ("Seed", f"{study.seed}, from which every random number derives"),
        ("SHA-256 of the extractor", records.joined(weights)),
        *(
            (f"SHA-256 of the images of {name}", digest)
            for name, digest in zip(
                datasets["dataset"], datasets["sha256"], strict=True
            )
        ),
    ]


def _commands(paths: StudyPaths, config_file: str) -> list[tuple[str, str, str]]:
    """Return an anchor, what it does and the command, for each way to run again."""
    config = shlex.quote(config_file)
    return [
        (
            "run-study",
            "The whole study; what is there already and still valid is kept",
            f"snakemake --configfile {config}",
        ),
        (
            "run-report",
            "This report, from the figures and tables as they are",
            _again(config_file, paths.report),
        ),
        (
            "run-status",
            "How far the study is, and what failed",
            f"noisesteps status --config {config}",
        ),
    ]
