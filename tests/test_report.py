"""The report: one file, offline, that says what the tables say."""

from __future__ import annotations

import base64
import hashlib
import io
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

import finished_study
from noisesteps import figures, tables
from noisesteps.errors import StageError
from noisesteps.report import build_report, findings

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
        "linear: the best FD (EfficientNet-Lite0) is 101.1, at T = 900.",
        "From T = 100 on, it stays within 10% of that.",
        "At T = 100, linear leaves 50.0% of the image's amplitude in x_T and scores "
        "110.0; linear_scaled leaves 0.1% and scores 220.0 (+100%).",
        "As many real held-out images have FD (EfficientNet-Lite0) 42.5",
        "No floor is known: too few real images are held out.",
        "Generating an image takes 0.9 s at T = 900 and 0.1 s at T = 100.",
        "T grows 9-fold, the time 9-fold.",
        "Training the 12 models took 100.0 minutes",  # 3 × 2 × (100 + 900) seconds
        "the dissertation reports 940 hours for its 60.",
        "resnet18: origin 72.0% ± 2.0, synthesis 62.0% ± 2.0, mix 82.0% ± 2.0",
        "resnet18 on mix is 10.0 points above origin; the dissertation reports +7",
        "12 diffusion models were trained on images of 8 × 8 pixels: 3 data sets × 2 "
        "beta schedules (linear, linear_scaled) × 2 values of T (100 to 900).",
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


def test_text_is_escaped(html, page):
    assert "CPU <model>" in page.text
    assert "model" not in page.tags
    assert "CPU <model>" not in html


def test_without_classifiers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = finished_study.study(
        classification=None,
        datasets={"toy_flowers": {"format": "toy_flowers", "train": 8, "held_out": 4}},
        diffusion={"steps": [100]},
        sampling={"images": 4, "batch_size": 4, "seeds": 3},
    )
    page = Page(build_report(study, finished_study.finish(study), "config/mini.yaml"))
    assert page.open == []
    assert "Do generated images help" not in page.text
    assert "Generating an image takes 0.1 s at T = 100." in page.text
    assert "This study has no classifiers to compare." in page.text


def test_a_missing_figure_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = finished_study.write_study(STUDY)
    with pytest.raises(StageError, match="stage tabulate"):
        build_report(STUDY, paths, "config/mini.yaml")
    for name in tables.table_names(STUDY):
        tables.write_csv(paths.table(name), tables.tabulate(name, STUDY, paths))
    with pytest.raises(StageError, match=r"dataset_oxford_flowers\.png.*stage draw"):
        build_report(STUDY, paths, "config/mini.yaml")
    assert not paths.report.exists()


def test_the_plateau_starts_where_it_stays():
    def of(values):
        steps = [100 * (place + 1) for place in range(len(values))]
        return findings.plateau(pd.DataFrame({"steps": steps, "value": values}))

    assert of([300.0, 105.0, 150.0, 109.0, 100.0]) == 400
    assert of([100.0, 105.0, 109.9]) == 100
    assert of([300.0, 100.0, 111.0]) is None


def test_a_gain_within_the_spread_of_seeds_is_not_praised():
    row = {
        "architecture": "vgg16",
        "runs": 5,
        "accuracy_std": 0.03,
        "dissertation_accuracy": float("nan"),
    }
    table = pd.DataFrame(
        [
            row | {"set": "origin", "accuracy_mean": 0.70},
            row | {"set": "mix", "accuracy_mean": 0.65},
        ]
    )
    assert findings.about_classifiers(table)[1] == (
        "vgg16 on mix is 5.0 points below origin, which is within the spread of the "
        "seeds."
    )
