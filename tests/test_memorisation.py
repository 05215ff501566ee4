"""A model that memorises, from its images to the sentence in the report."""

import numpy as np
import pandas as pd
import pytest
import torch

import finished_study
import real_faces
from noisesteps.data.array import Images
from noisesteps.evaluation import describe, load_extractor, score
from noisesteps.paths import StudyPaths
from noisesteps.records import write_record
from noisesteps.report.score_findings import about_copies
from noisesteps.tables.scores import copy_rows

IMAGES, COPIES = 32, 12
# Which space shows which alteration, as the documentation of the detector says.
SEEN = {
    "exact": {"feature", "pixel"},
    "mirrored": {"feature", "pixel"},
    "noise of 20": {"pixel"},
    "shifted": {"feature"},
}


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    return real_faces.load()


@pytest.fixture(scope="module")
def table(faces, tmp_path_factory) -> pd.DataFrame:
    """Score models of whose images some are altered copies, as the stages do.

    The other images of a model are real ones that it has not seen: nothing but the
    copies sets it apart from an honest model, which comes last.
    """
    train, held_out = faces
    dataset = Images(train, held_out[: -2 * IMAGES])
    unseen = held_out[-2 * IMAGES :]
    made = [real_faces.planted(train)[kind][:COPIES] for kind in SEEN]
    samples = [np.concatenate([some, unseen[COPIES:IMAGES]]) for some in made]
    extractor = load_extractor("efficientnet-lite0", None, torch.device("cpu"), 64)
    reference, _, real = describe(dataset, extractor, images=IMAGES, key=(0, "faces"))
    study = finished_study.study(
        study="memory",
        datasets={"toy_flowers": {"format": "toy_flowers", "train": 30, "held_out": 4}},
        diffusion={"steps": list(range(1, 2 + len(samples)))},
        sampling={"images": IMAGES},
        classification=None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("memory"))
        paths = StudyPaths(study.study)
        write_record(paths.reference("toy_flowers") / "reference.json", real)
        for run, images in zip(study.runs, [*samples, unseen[IMAGES:]], strict=True):
            *_, found = score(
                images, extractor, reference, images=IMAGES, seeds=1, key=(run.steps,)
            )
            found |= finished_study.shared(run) | {
                "terminal_signal": 0.0, "seconds_per_image": 1.0
            }  # fmt: skip
            write_record(paths.score(run) / "score.json", found)
        found = pd.DataFrame(copy_rows(list(study.runs), paths))
    return found.assign(kind=[*np.repeat([*SEEN, "honest"], 2)])


@real_faces.needs_faces
@pytest.mark.parametrize("kind", [*SEEN, "honest"])
def test_a_model_that_memorises_is_told_from_one_that_does_not(table, kind):
    rows = table[table["kind"] == kind]
    memorises = rows.set_index("space")["p_holm"] < 0.05
    assert set(memorises.index[memorises]) == SEEN.get(kind, set())


@real_faces.needs_faces
def test_the_archives_own_duplicates_are_no_near_copies_of_real_images(table):
    """Of 136 held-out images 20 equal a training image; some others are nearly so."""
    assert set(table["real_images"]) == {116}
    assert table["real_copies"].max() < 5


@real_faces.needs_faces
def test_the_report_says_so(table):
    honest = table[table["kind"] == "honest"]
    assert not any("it memorises" in sentence for sentence in about_copies(honest))
    assert all("it memorises" in sentence for sentence in about_copies(table))
