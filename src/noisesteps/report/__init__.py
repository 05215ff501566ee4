"""The report: one HTML file that tells a study, and opens offline.

And as Markdown, what is finished of a study beside the dissertation's numbers.
"""

from __future__ import annotations

from pathlib import Path

from noisesteps.config import Study
from noisesteps.paths import StudyPaths

__all__ = ["beside_the_dissertation", "build_report", "write_report"]


def build_report(study: Study, paths: StudyPaths, config_file: str) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    config_file
        The study's YAML file as a user types it, for the commands in the report.

    Raises
    ------
    StageError
        If a table, a figure or a record is missing; the message names it.
    """
    from noisesteps.report.page import render

    return render(study, paths, config_file)


def beside_the_dissertation(study: Study, paths: StudyPaths) -> str:
    """Return what is finished of a study, beside the dissertation, as Markdown.

    Raises
    ------
    StageError
        If no model has been scored, or a record is missing or damaged.
    """
    from noisesteps.report.markdown import compared

    return compared(study, paths)


def write_report(study: Study, paths: StudyPaths, config_file: str) -> Path:
    """Write the report atomically to `paths.report`, and return that path."""
    from noisesteps.files import write_text

    write_text(paths.report, build_report(study, paths, config_file))
    return paths.report
