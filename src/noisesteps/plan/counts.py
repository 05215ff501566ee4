"""What is at hand before a study runs: how many images, and of which kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from noisesteps.config import Distribution, Folder, OxfordFlowers, Study, Toy
from noisesteps.errors import StageError
from noisesteps.files import read_json
from noisesteps.needs import UNCOUNTED_IMAGES
from noisesteps.paths import StudyPaths

OFFICIAL = (7169, 1020)  # of Oxford Flowers: trnid and tstid; valid


@dataclass(frozen=True)
class Count:
    """The images of one data set.

    Attributes
    ----------
    train, held_out
        As `preprocess` will find them, unless it rejects some.
    origin
        Where the numbers come from, in words that a table can hold.
    known
        False if `train` is a guess.
    """

    train: int
    held_out: int
    origin: str
    known: bool = True


def count_images(study: Study, name: str) -> Count:
    """Count a data set's images: prepared ones, else the config's, else the files.

    Where nothing is known, `train` is what `needs.py` assumes.

    Raises
    ------
    StageError
        If the record of `preprocess` is damaged.
    DataError
        If an archive that is there cannot be read.
    """
    prepared = _prepared(study, name)
    if prepared:
        return prepared
    dataset = study.datasets[name]
    train, held_out = dataset.train, dataset.held_out
    if isinstance(dataset, OxfordFlowers):
        own = (OFFICIAL[0] if train is None else train,
               OFFICIAL[1] if held_out is None else held_out)  # fmt: skip
        return Count(*own, "the official split")
    if train is not None:
        return Count(train, held_out, "the config")
    folder = _files(study, name)
    if folder is None:
        return Count(UNCOUNTED_IMAGES, held_out, "assumed", known=False)
    return _counted(study, name, folder, held_out)


def _prepared(study: Study, name: str) -> Count | None:
    path = StudyPaths(study.study).data(name) / "dataset.json"
    try:
        record = read_json(path)
        return Count(record["train"], record["held_out"], "preprocessed")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"{path} is damaged; remove it and run `noisesteps preprocess` again."
        ) from error


def _files(study: Study, name: str) -> Path | None:
    """Return where the files of a data set can be listed, if they are at hand."""
    dataset = study.datasets[name]
    if isinstance(dataset, Folder):
        return Path(dataset.path)
    places = [study.resource_folder(name)]
    if isinstance(dataset, Distribution) and dataset.mirror:
        places.append(Path(dataset.mirror.location))
    for place in places:
        if all((place / file).is_file() for file in dataset.files):
            return place
    return None


def _counted(study: Study, name: str, folder: Path, held_out: int) -> Count:
    from noisesteps.data.readers import open_reader

    files = len(open_reader(name, study.datasets[name], folder).candidates())
    return Count(max(files - held_out, 1), held_out, "the files")


def is_drawn(study: Study, dataset: str) -> bool:
    """Whether a data set is drawn and not decoded from files."""
    return isinstance(study.datasets[dataset], Toy)


def weights_are_there(study: Study) -> bool:
    """Whether nothing has to be fetched before the extractor can be used."""
    name = study.evaluation.extractor
    weights = study.distribution(name)
    if weights is None:
        return True
    folder = study.resource_folder(name)
    return all((folder / file).is_file() for file in weights.files)


def compiled_stages(study: Study) -> dict[str, bool]:
    """Say of `training` and `sampling` whether any job of theirs compiles.

    Where the number of updates is not known before the images are counted, one that
    may compile counts as one that does.
    """
    return {
        "training": bool(study.training.compile_as_known),
        "sampling": any(map(study.sampling_compiles, study.runs)),
    }
