"""The report: one file, offline, that says what the tables say."""

from __future__ import annotations

import base64
import hashlib
import io
import shlex
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from jinja2 import Template
from PIL import Image

import finished_study
from noisesteps import figures, tables
from noisesteps.diffusion.schedules import SCHEDULES
from noisesteps.errors import StageError
from noisesteps.paths import StudyPaths
from noisesteps.report import build_report, findings
from noisesteps.report import page as page_module

ROOT = Path(__file__).parents[1]
STUDY = finished_study.study()
VOID = {"meta", "img", "br", "link", "input"}
HIDDEN = {"style", "script"}


class Page(HTMLParser):
    """Collect what a test asks about, and check that tags are balanced."""

    def __init__(self, html: str):
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.policy = ""
        self.words: list[str] = []
        self.inline: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        if "id" in values:
            assert values["id"] not in self.ids
            self.ids.add(values["id"])
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        self.addresses += [values[key] for key in ("src", "href") if key in values]
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in HIDDEN:
            self.inline[self.open[-1]] = data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html(mini_report):
    return mini_report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_it_is_one_balanced_document(html, page):
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert page.open == []


def test_the_policy_allows_this_style_and_script_and_nothing_else(page):
    directives = dict(part.split(" ", 1) for part in page.policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    for name in ("style", "script"):
        digest = hashlib.sha256(page.inline[name].encode()).digest()
        expected = f"'sha256-{base64.b64encode(digest).decode()}'"
        assert directives[f"{name}-src"] == expected


def test_it_asks_for_nothing_from_outside(html, page):
    inside = [
        a
        for a in page.addresses
        if a == "data:," or a.startswith(("#", "data:image/png;base64,"))
    ]
    assert inside == page.addresses
    assert {a[1:] for a in inside if a.startswith("#")} <= page.ids
    for word in ("http://", "https://", "url(", "@import"):
        assert word not in html


def test_every_figure_is_there_with_its_words(page):
    assert len(page.images) == len(figures.figure_names(STUDY))
    assert set(figures.figure_names(STUDY)) <= page.ids
    for image in page.images:
        assert len(image["alt"]) > 40
        content = base64.b64decode(image["src"].split(",", 1)[1], validate=True)
        picture = Image.open(io.BytesIO(content))
        assert picture.size == (int(image["width"]), int(image["height"]))


@pytest.mark.parametrize(
    "words",
    [
        "linear: the best FD (EfficientNet-Lite0) is 101.1 [98.6, 103.6], at T = 900;",
        "no smaller T is left to choose (T = 100 scores significantly worse than the "
        "best)",
        "At T = 100, linear leaves 50.0% of the image's amplitude in x_T and scores "
        "110.0; linear_scaled leaves 0.1% and scores 220.0: +110.0 [+107.7, +112.3], "
        "worse (p < 0.001).",
        "The best score is 101.1 [98.6, 103.6], of linear, T = 900: 0.9 s an image.",
        "What should one use? What follows holds for these very models, not for their "
        "schedules and values of T: each was trained once, and no test covers the luck "
        "of training. The fastest that cannot be told from the best:",
        "8 real held-out images score 42.5 [40.0, 45.0] against the training images",
        "No floor is known: too few real images are held out.",
        "Generating an image takes 0.9 s at T = 900 and 0.1 s at T = 100 (medians over "
        "the models).",
        "T grows 9-fold, the time 9-fold.",
        "Training the 12 models took 100.0 minutes",  # 3 × 2 × (100 + 900) seconds
        "the dissertation reports 940 hours for its 60.",
        "resnet18: origin 72.0% [52.7, 86.8], synthesis 62.0% [42.5, 79.0], mix 82.0%",
        "vgg16: generated images are not shown to beat longer training or ordinary "
        "augmentation. Mix is 10.0 points above origin [+7.5, +12.5] (distinguishable "
        "from zero, p = 0.027; the dissertation reports +9), 4.0 points above origin "
        "trained for as many updates [−1.0, +9.0] (not distinguishable from zero, p = "
        "0.30) and 1.0 points below origin with ordinary augmentation",
        "resnet18: synthesis is 10.0 points below origin [−12.5, −7.5]",
        "not the choice of images: all repetitions learn from the same ones",
        "One choice of training and test images; others may differ.",
        "12 diffusion models were trained on images of 8 × 8 pixels: 3 data sets × 2 "
        "beta schedules (linear, linear_scaled) × 2 values of T (100 to 900).",
        "Schedules: linear (β from 1e-4 to 0.02 whatever T is: a small T leaves part "
        "of the image in x_T); linear_scaled (β from 1e-4 to 0.02, all times 1000/T "
        "and at most 0.999: x_T is nearly pure noise for a small T too).",
        "Each model was trained once, so any difference between two models, be it of T "
        "or of the schedule, can be the luck of one training, however small its p: the "
        "3 scores of a model repeat its sampling alone.",
        "smithsonian_butterflies (30 training images)",
        "toy_flowers: 1 skipped; all are listed in "
        "results/mini/data/toy_flowers/rejected.csv .",
        "a<b>.jpg : truncated",
        "Together 1 h 42 min of computing",  # 6,000 s of training and 73 jobs of 1.5 s
        "tiny, 1,234 parameters",
        "369.9",  # the dissertation's first FID, rounded for a reader
        "--configfile config/mini.yaml --force results/mini/figures/fid_toy_flowers",
    ],
)
def test_it_says(page, words):
    assert words in page.text


ONE_TRAINING = (
    "What follows holds for these very models, not for {}: each was trained once, and "
    "no test covers the luck of training."
)


@pytest.mark.parametrize(
    ("title", "subject"),
    [
        ("How many steps are enough?", "the values of T"),
        ("Is it T, or the schedule?", "the schedules"),
        ("Is a small T bad to train, or only bad to sample?", "the values of T"),
        ("What should one use?", "their schedules and values of T"),
    ],
)
def test_verdicts_on_single_trainings_say_so_first(page, title, subject):
    """In short, and at the head of the section."""
    assert page.text.count(f"{title} {ONE_TRAINING.format(subject)}") == 2


def test_verdicts_over_several_trainings_carry_no_such_warning(tables_of):
    several = finished_study.study(training={"batch_size": 4, "seeds": 2})
    told = findings.tell(several, tables_of(several))
    assert {section.warning for section in told} == {""}
    assert "luck of one training" not in findings.cautions(several)[1]


def test_single_scores_are_said_to_be_untested(tables_of):
    single = STUDY.model_copy(
        update={"sampling": STUDY.sampling.model_copy(update={"seeds": 1})}
    )
    told = {section.title: section for section in findings.tell(single, tables_of())}
    assert told["Is it T, or the schedule?"].warning == (
        "Nothing was repeated, so nothing is tested: there is one score of each, and "
        "any difference may be chance."
    )
    assert told["What a step costs"].warning == ""
    assert findings.cautions(single)[1] == (
        "Each model was trained once and scored once, so any difference between two "
        "models may be chance."
    )


@pytest.fixture
def tables_of(tmp_path, monkeypatch):
    """Return a function that makes every table of a finished study."""
    monkeypatch.chdir(tmp_path)

    def tabulated(study=STUDY):
        paths = finished_study.write_study(study)
        return {n: tables.tabulate(n, study, paths) for n in tables.table_names(study)}

    return tabulated


def test_every_schedule_is_explained():
    assert page_module.SCHEDULES.keys() == SCHEDULES.keys()
    assert page_module._explained(["cosine"]) == (
        "cosine (Nichol and Dhariwal's: x_T is nearly pure noise)"
    )


def test_text_is_escaped(html, page):
    assert "CPU <model>" in page.text
    assert "model" not in page.tags
    assert "CPU <model>" not in html


def test_a_command_quotes_the_config_s_name():
    name = "my $(touch ran); 'study'.yaml"
    commands = page_module._commands(StudyPaths("mini"), name)
    assert len(commands) == 3
    assert all(name in shlex.split(line) for _, _, line in commands)


def short_study():
    """Return a study of one data set, one T and no classifiers."""
    return finished_study.study(
        classification=None,
        datasets={"toy_flowers": {"format": "toy_flowers", "train": 8, "held_out": 4}},
        diffusion={"steps": [100]},
        sampling={"images": 6, "batch_size": 4, "seeds": 3},
    )


def test_without_classifiers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = short_study()
    page = Page(build_report(study, finished_study.finish(study), "config/mini.yaml"))
    assert page.open == []
    assert "Do generated images help" not in page.text
    assert "Generating an image takes 0.1 s at T = 100 (medians" in page.text
    assert "This study has no classifiers to compare." in page.text


def test_a_missing_figure_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = finished_study.write_study(STUDY)
    with pytest.raises(StageError, match="noisesteps tabulate --table"):
        build_report(STUDY, paths, "config/mini.yaml")
    finished_study.write_tables(STUDY, paths)
    with pytest.raises(StageError, match=r"dataset_oxford_flowers\.png.*steps draw"):
        build_report(STUDY, paths, "config/mini.yaml")
    assert not paths.report.exists()


@pytest.mark.parametrize("damage", ["cut", "exchanged"])
def test_a_figure_that_has_changed_is_not_shown(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    study = short_study()
    paths = finished_study.finish(study)
    picture = paths.figure("schedule")
    if damage == "cut":
        picture.write_bytes(picture.read_bytes()[:20])
    else:
        picture.write_bytes(paths.figure("generation_time").read_bytes())
    damaged = rf"{picture} is damaged .*run `noisesteps draw --figure schedule` again"
    with pytest.raises(StageError, match=damaged):
        build_report(study, paths, "config/mini.yaml")


def effects(repetitions=5, **differences) -> pd.DataFrame:
    """Return effects of mix on one architecture; None: not distinguishable."""
    rows = [
        {
            "architecture": "vgg16",
            "set": "mix",
            "baseline": baseline,
            "repetitions": repetitions,
            "difference": value or 0.01,
            "difference_low": (value or 0.01) - 0.02,
            "difference_high": (value or 0.01) + 0.02,
            "p_value": 0.5 if value is None else 1e-5,
            "p_holm": 1.0 if value is None else 1e-4,
            "dissertation_difference": float("nan"),
        }
        for baseline, value in differences.items()
    ]
    return pd.DataFrame(rows)


ANSWERS = [
    (
        {"origin": 0.05, "origin_repeated": 0.04, "origin_augmented": 0.03},
        "generated images help, and beat longer training and ordinary augmentation.",
    ),
    (
        {"origin": 0.05, "origin_repeated": 0.04, "origin_augmented": None},
        "generated images are not shown to beat ordinary augmentation.",
    ),
    (
        {"origin": 0.05, "origin_repeated": -0.04},
        "generated images are not shown to beat longer training.",
    ),
    ({"origin": None, "origin_repeated": 0.03}, "are not shown to help."),
    ({"origin": -0.05, "origin_augmented": None}, "lower the accuracy."),
    ({"origin": 0.05}, "more images help; no control says whether"),
    ({"origin_augmented": 0.05}, "help, and beat ordinary augmentation."),
]


@pytest.mark.parametrize(("differences", "answer"), ANSWERS)
def test_generated_images_are_praised_for_what_the_controls_leave(differences, answer):
    first, *_ = findings.about_effects(effects(**differences))
    assert answer in first


def test_a_difference_is_told_with_its_interval_and_p():
    first, _ = findings.about_effects(effects(origin=-0.0512))
    assert (
        "Mix is 5.1 points below origin [−7.1, −3.1] (distinguishable from zero, "
        "p < 0.001)." in first
    )


def test_one_repetition_is_no_evidence():
    table = effects(repetitions=1, origin=0.05).assign(
        **dict.fromkeys(
            ("difference_low", "difference_high", "p_value", "p_holm"), float("nan")
        )
    )
    first, last = findings.about_effects(table)
    assert first == (
        "vgg16: generated images are not shown to help. Mix is 5.0 points above origin."
    )
    assert "nothing says whether" in last


def test_equal_repetitions_have_no_interval():
    table = effects(origin=1e-9, origin_repeated=0.05)
    absent = ["difference_low", "difference_high", "p_value", "p_holm"]
    table.loc[table["baseline"] == "origin", absent] = float("nan")
    first, last = findings.about_effects(table)
    assert "Mix is level with origin and 5.0 points above" in first
    assert "the same in every repetition has no interval" in last
    assert "correction for 1 test; they assume independent pairs" in last


@pytest.mark.parametrize("name", figures.figure_names(STUDY))
def test_snakemake_s_report_has_words_for_every_figure(name):
    text = (ROOT / "workflow" / "report" / "figure.rst").read_text(encoding="utf-8")
    job = SimpleNamespace(
        wildcards=SimpleNamespace(figure=name, study="mini"),
        output=SimpleNamespace(png=f"results/mini/figures/{name}.png"),
    )
    words, command = Template(text).render(snakemake=job).strip().split("\n\n")
    assert len(words) > 40
    assert f"results/mini/figures/{name}.png" in command
