"""The dissertation's tables beside a study's: compared where they measure alike."""

from pathlib import Path

import pandas as pd
import pytest

from noisesteps.config import Study, load_study
from noisesteps.report import comparison

ROOT = Path(__file__).parents[1]
TRAIN_IMAGES = {
    "oxford_flowers": 7169,
    "smithsonian_butterflies": 900,
    "anime_faces": 14_000,
}
UPDATES = {name: 50 * -(-count // 16) for name, count in TRAIN_IMAGES.items()}


@pytest.fixture(scope="module")
def study():
    return load_study(ROOT / "config" / "config.yaml")


def changed(study: Study, **sections: dict) -> Study:
    """Return the study with other values of some sections."""
    values = study.model_dump()
    return Study.model_validate(
        values | {name: values[name] | keys for name, keys in sections.items()}
    )


def tables(study: Study) -> dict[str, pd.DataFrame]:
    """Return tables by rule: an update takes 1 s, a step 10 ms, FID is T."""
    runs = [
        {"dataset": run.dataset, "schedule": run.schedule, "steps": run.steps}
        for run in study.runs
    ]
    models = [
        run
        | {
            "parameters": 113_673_219,
            "optimizer_steps": UPDATES[run["dataset"]],
            "seconds": float(UPDATES[run["dataset"]]),
            "device": "NVIDIA H200",
        }
        for run in runs
    ]
    return {
        "models": pd.DataFrame(models),
        "fid": pd.DataFrame([run | {"value": float(run["steps"])} for run in runs]),
        "generation_time": pd.DataFrame(
            [run | {"seconds_per_image": run["steps"] / 100} for run in runs]
        ),
        "classification": pd.DataFrame(
            [
                {
                    "architecture": "vgg16",
                    "set": "mix",
                    "accuracy_mean": 0.8,
                    "accuracy_precise_bn_mean": 0.9,
                }
            ]
        ),
    }


def compared(study: Study) -> dict[str, comparison.Comparison]:
    given = tables(study)
    found = comparison.conditions(study, given, TRAIN_IMAGES)
    made = comparison.compare(found, given)
    return {one.table.title.split(":")[0]: one for one in made}


def row(one: comparison.Comparison, *start: str) -> dict[str, str]:
    """Return the row that begins with the given cells, by heading."""
    rows = [[cell.text for cell in cells] for cells in one.table.rows]
    (found,) = [cells for cells in rows if cells[: len(start)] == list(start)]
    return dict(zip([words for words, _ in one.table.headings], found, strict=True))


def test_the_dissertation_s_own_study_is_comparable_in_all(study):
    made = compared(study)
    assert all(one.comparable for one in made.values())
    assert "updates of a model, device." in made["Table 4.1"].verdict
    assert "updates of a model, training images." in made["Table 4.2"].verdict


def test_an_update_is_compared_where_their_number_differs(study):
    found = row(compared(study)["Table 4.1"], "oxford_flowers")
    assert found["dissertation's mean time"] == "15 h 00 min"
    assert found["this study's mean time"] == "6 h 14 min"  # 449 × 50 updates
    assert found["dissertation's time an update"] == "2.41 s"  # 15 × 3600 / 22,450
    assert found["times faster here, an update"] == "2.405"


def test_the_contradiction_in_the_source_is_told(study):
    made = compared(study)
    assert "(15 + 2 + 50) x 20 = 940" in made["Table 4.1"].table.note
    assert made["Table 4.2"].table.note == ""


def test_scores_stand_beside_the_dissertation_s(study):
    found = row(compared(study)["Table 4.2"], "anime_faces", "500")
    assert found["dissertation's FID"] == "101.0"
    assert found["this study's FID"] == "500"
    assert found["difference"] == "399"


def test_times_are_those_of_128_images(study):
    found = row(compared(study)["Table 4.3"], "1,000")
    assert found["dissertation's time"] == "1 h 24 min"  # 1:24:20
    assert found["this study's time"] == "21 min 20 s"  # 128 × 10 s
    assert found["times faster here"] == "3.953"  # 5,060 / 1,280


def test_accuracies_are_compared_where_the_classes_are_the_same(study):
    found = row(compared(study)["Table 4.4"], "vgg16", "mix")
    assert found["difference of accuracy (points)"] == "10.0"
    assert found["this study's, normalisation settled (%)"] == "90.0"


def test_another_extractor_rules_out_the_scores_alone(study):
    other = changed(study, evaluation={"extractor": "efficientnet-lite0"})
    made = compared(other)
    scores = made["Table 4.2"]
    assert not scores.comparable
    assert "extractor efficientnet-lite0 instead of inception-v3" in scores.verdict
    assert [words for words, _ in scores.table.headings] == [
        "data set", "T", "dissertation's FID",
    ]  # fmt: skip
    assert len(scores.table.rows) == 60
    assert all(made[f"Table 4.{n}"].comparable for n in (1, 3, 4))


def test_the_size_of_the_images_rules_out_times_and_scores(study):
    made = compared(changed(study, preprocess={"image_size": 32}))
    words = "image size 32 × 32 pixels instead of 128 × 128 pixels"
    assert all(words in made[f"Table 4.{n}"].verdict for n in (1, 2, 3))
    assert made["Table 4.4"].comparable
    assert "image size" in made["Table 4.4"].verdict


def test_other_schedules_and_few_steps_are_seen(study):
    made = compared(
        changed(
            study,
            diffusion={"schedules": ["cosine"]},
            sampling={"sampling_steps": 50},
            classification={"schedule": "cosine"},
        )
    )
    assert "schedule cosine instead of linear" in made["Table 4.2"].verdict
    assert "sampler ancestral, 50 steps" in made["Table 4.3"].verdict


def test_a_study_of_other_steps_has_nothing_to_put_beside(study):
    other = changed(
        study,
        diffusion={"steps": [50]},
        sampling={"fewer_steps": None},
        classification={"steps": 50},
    )
    assert "no model that belongs to a row" in compared(other)["Table 4.3"].verdict


def test_what_differs_is_listed_with_the_tables_it_bears_on(study):
    other = changed(study, evaluation={"extractor": "efficientnet-lite0"})
    found = comparison.conditions(other, tables(other), TRAIN_IMAGES)
    listed = {
        cells[0].text: [cell.text for cell in cells[1:]]
        for cells in comparison.differences(found).rows
    }
    assert listed["extractor"] == ["inception-v3", "efficientnet-lite0", "4.2", "–"]
    assert listed["device"][-1] == "4.1, 4.3"
    assert "image size" not in listed
    assert "schedule" not in listed


def test_every_condition_that_a_table_names_exists(study):
    found = comparison.conditions(study, tables(study), TRAIN_IMAGES)
    for table in comparison.PUBLISHED:
        assert {*table.needs, *table.minds} <= found.keys()
