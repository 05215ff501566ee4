"""Whether few steps are bad to train with, or only bad to sample with."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from noisesteps.config import Study
from noisesteps.figures import style
from noisesteps.figures.words import method_name
from noisesteps.paths import StudyPaths
from noisesteps.tables import read_table
from noisesteps.tables.comparisons import TRAINED

METHODS = {"ancestral": style.ANCESTRAL, "ddim": style.DDIM}


def draw_fewer_steps(study: Study, paths: StudyPaths, _: str | None) -> Figure:
    """Draw the score over the sampling steps: a column a data set, a row a schedule.

    With one data set the schedules stand side by side.
    """
    table = read_table("fewer_steps", paths)
    schedules, datasets = study.diffusion.schedules, list(study.datasets)
    cells = [[(name, schedule) for name in datasets] for schedule in schedules]
    if len(datasets) == 1:
        cells = [[row[0] for row in cells]]
    rows, columns = len(cells), len(cells[0])
    figure = style.new_figure(style.WIDTH, 1.7 + max(2.0 * rows, 2.8))
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False)
    counts = table["sampling_steps"].tolist()
    wide = max(counts) >= 10 * min(counts)
    for place, axes in zip([cell for row in cells for cell in row], panels.flat,
                           strict=True):  # fmt: skip
        dataset, schedule = place
        chosen = table[(table["dataset"] == dataset) & (table["schedule"] == schedule)]
        _draw_ways(axes, chosen, study)
        axes.set_title(f"{dataset}\n{schedule}", fontsize=8.5)
        style.steps_axis(
            axes, counts, inches=5.6 / columns,
            label="sampling steps",
            logarithmic=wide or None,
        )  # fmt: skip
    for column in panels.T if len(datasets) > 1 else panels:
        style.around(*column)  # of one data set
    for axes in panels[:-1].flat:
        axes.set_xlabel("")
    for row in panels:
        row[0].set_ylabel(f"{table['metric'].iloc[0]},\nlower is better")
    style.legend_below(figure, panels[0, 0], columns=2)
    return figure


def lines_of(rows: DataFrame, study: Study) -> dict[str, DataFrame]:
    """Split the rows of a data set and schedule into the lines of its panel.

    A line of the largest T's model ends where all its steps are taken, if the study
    samples its models by the same method.
    """
    largest = max(study.diffusion.steps)
    trained = rows[rows["way"] == TRAINED]
    lines = {"trained": trained}
    for method in METHODS:
        respaced = (rows["way"] == method) & (rows["trained_steps"] == largest)
        if not respaced.any():
            continue
        whole = trained["trained_steps"] == largest
        joined = whole & (method == study.sampling.method)
        lines[method] = rows[respaced | joined.reindex(rows.index, fill_value=False)]
    return {name: found.sort_values("sampling_steps") for name, found in lines.items()}


def _draw_ways(axes: Axes, rows: DataFrame, study: Study) -> None:
    largest = max(study.diffusion.steps)
    for name, found in lines_of(rows, study).items():
        colour, marker = METHODS.get(name, style.TRAINED)
        label = (
            "trained and sampled with as many steps"
            if name == "trained"
            else f"model of T = {largest:,}, {method_name(name)} sampling"
        )
        style.draw_band(axes, found, colour, over="sampling_steps")
        axes.plot(
            found["sampling_steps"], found["value"], color=colour, marker=marker,
            label=label,
        )  # fmt: skip
