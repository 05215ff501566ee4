"""Whether two runs of a study made the same results, down to the last bit."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from noisesteps.files import DIGEST

# Logs and benchmarks tell of one run. Some figures and the report show times.
TELLING = re.compile(
    r"(logs|benchmarks|checkpoints)/|report\.html|figures/(generation|training)_time"
    r"|figures/quality_vs_cost"
    r"|.*\.lock$"
)
# Names of values that tell how long it took. A record's own digest covers them, and so
# does that of a table that has them as columns.
TIMES = re.compile(rf"second|hour|minute|memory|started|\.csv$|^{DIGEST}$")


def results(folder: Path) -> dict[str, Path]:
    """Map the name of every result below `folder` to its file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return {name: path for name, path in named.items() if not TELLING.match(name)}


def content(path: Path) -> Any:
    """Return what two runs must share: the bytes, or the values that are no times."""
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text()))
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return _without_times(list(csv.DictReader(file)))
    return path.read_bytes()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = (key for key in value if not TIMES.search(key))
        return {key: _without_times(value[key]) for key in kept}
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    return value
