"""The study: a typed, validated view of its YAML file.

This module is the only place that knows the YAML. Every key carries a description, a
unit where it has one, and a range; `workflow/schemas/config.schema.json` is generated
from here by `noisesteps.schema`, and a test keeps the two in step.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import reprlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from noisesteps.errors import ConfigError
from noisesteps.paths import RESOURCES, Run

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
FILE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
ADDRESS_PATTERN = r"^https?://"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
FileName = Annotated[str, Field(pattern=FILE_PATTERN)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Schedule = Literal["linear", "linear_scaled", "cosine"]
Preset = Literal["ddpm-113m", "small-32", "toy-16", "tiny"]
Extractor = Literal["inception-v3", "efficientnet-lite0"]
Architecture = Literal["resnet18", "vgg16"]
Method = Literal["ancestral", "ddim"]
SetName = Literal["origin", "synthesis", "mix", "origin_repeated", "origin_augmented"]
# Far above what anybody trains for, and far below what 64 bits and floats can hold.
MOST_IMAGES = 10_000_000
MOST_DRAWINGS = 500_000  # as many as a zip may hold
MOST_EPOCHS = 1_000_000
MOST_UPDATES = 1_000_000_000
MOST_TOGETHER = 1_000_000  # images of a batch, of a score, of a class
MOST_STEPS = 10_000
_SHORT = reprlib.Repr()  # a few aliases of YAML can make a value without end
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong = 3, 80, 80
GENERATED_SETS = {"synthesis", "mix"}  # those that hold generated images
FORMAT = "How the data set is read."
COMPILE = (
    "Compile the network for the device (torch.compile; on CUDA its kernels are then "
    "launched as one graph). It takes minutes, so a number asks for it only where "
)
EXTRACTORS = get_args(Extractor)
# Each level of a network halves the image; a test compares these with the networks.
SIZE_MULTIPLES = {"ddpm-113m": 32, "small-32": 8, "toy-16": 4, "tiny": 2}


def _key(default: Any, description: str, unit: str | None = None, **limits: Any) -> Any:
    """Declare a key with what a reader of the schema needs to know."""
    extra = {"unit": unit} if unit else None
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """A mapping of the YAML file; unknown keys and wrong types are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )


def is_address(place: str) -> bool:
    """Tell a base URL from a folder."""
    return re.match(ADDRESS_PATTERN, place) is not None


def _expanded(path: str) -> str:
    """Write out the home that `~` or `~name` stands for."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise ValueError(
            f"{path} starts with the home of a user who has none on this machine; "
            "write the folder out"
        ) from None


def _always_never_or_from(value: Any) -> Any:
    if type(value) is bool or (type(value) is int and 1 <= value <= MOST_UPDATES):
        return value
    raise ValueError(
        f"{_SHORT.repr(value)} is not true, false or a number of 1 to {MOST_UPDATES:,}"
    )


Compile = Annotated[
    bool | Annotated[int, Field(ge=1, le=MOST_UPDATES)],
    BeforeValidator(_always_never_or_from),
]


def _each_once(section: Section, *keys: str) -> Any:
    for key in keys:
        values = getattr(section, key)
        if len(set(values)) < len(values):
            raise ValueError(f"{key} lists a value twice; list each once")
    return section


class RemoteFile(Section):
    """One file of a distribution: where it lives and how it is recognised."""

    url: str | None = _key(
        None,
        "Canonical address; null: the file has to be put in place by hand.",
        pattern=ADDRESS_PATTERN,
    )
    sha256: Sha256 | None = _key(None, "Published SHA-256, in hexadecimal.")
    md5: Md5 | None = _key(None, "Published MD5, where no SHA-256 is published.")


class Mirror(Section):
    """A stand-in for the canonical addresses, with checksums of its own."""

    location: str = _key(
        ...,
        "A folder, or a base URL, that holds files of the same names.",
        min_length=1,
    )
    sha256: dict[FileName, Sha256] = _key(
        ..., "SHA-256 of each file at the mirror, by file name."
    )

    @field_validator("location")
    @classmethod
    def _expand(cls, location: str) -> str:
        return location if is_address(location) else _expanded(location)


class Distribution(Section):
    """Files to fetch and verify before a stage can use them."""

    files: dict[FileName, RemoteFile] = _key(
        ..., "The files of the distribution, by name.", min_length=1
    )
    mirror: Mirror | None = _key(
        None, "Where to get the files instead of from their canonical addresses."
    )
    hint: str | None = _key(
        None, "What a person has to do to get the files by hand (account, page)."
    )

    @model_validator(mode="after")
    def _mirror_has_checksums(self) -> Distribution:
        missing = sorted(
            self.files.keys() - (self.mirror.sha256 if self.mirror else self.files)
        )
        if missing:
            raise ValueError(f"mirror.sha256 lacks {missing[0]}; add its checksum")
        return self

    @property
    def version(self) -> str:
        """Eight hexadecimal digits that change with the files' identity."""
        if self.mirror:
            identity: Any = {name: self.mirror.sha256[name] for name in self.files}
        else:
            identity = {
                name: file.sha256 or file.md5 or file.url
                for name, file in self.files.items()
            }
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


class _Dataset(Section):
    train: int | None = _key(
        None,
        "How many images to train on, chosen by seed; null: all that are not held out.",
        "images",
        ge=1,
        le=MOST_IMAGES,
    )
    held_out: int | None = _key(
        0,
        "How many images no diffusion model sees, chosen by seed before training; "
        "null: the distribution's own held-out split, where it has one.",
        "images",
        ge=0,
        le=MOST_IMAGES,
    )
    epochs: int | None = _key(
        None, "Overrides training.epochs for this data set.", "epochs", ge=1,
        le=MOST_EPOCHS,
    )  # fmt: skip


class _Archived(_Dataset, Distribution):
    pass


class OxfordFlowers(_Archived):
    """`102flowers.tgz`, `imagelabels.mat` and `setid.mat`, with the official split."""

    format: Literal["oxford_flowers"] = _key(..., FORMAT)

    @model_validator(mode="after")
    def _has_its_files(self) -> OxfordFlowers:
        for name in ("102flowers.tgz", "imagelabels.mat", "setid.mat"):
            if name not in self.files:
                raise ValueError(f"files lacks {name}; add it")
        return self

    held_out: int | None = _key(
        None,
        "null: the 1,020 images of `valid`; a number: that many of them, by seed.",
        "images",
        ge=0,
        le=MOST_IMAGES,
    )


class Parquet(_Archived):
    """One or more Hugging Face parquet files with an `image` column."""

    format: Literal["parquet"] = _key(..., FORMAT)
    image_column: str = _key("image", "Column of {bytes, path} structures.")
    label_column: str | None = _key(None, "Column of labels; null: no labels.")


class ZipArchive(_Archived):
    """One zip of image files; sub-folders below `prefix` are labels."""

    format: Literal["zip"] = _key(..., FORMAT)
    prefix: str = _key("", "Only members below this folder are images of the set.")


class Folder(_Dataset):
    """Any tree of image files; sub-folders are labels."""

    format: Literal["folder"] = _key(..., FORMAT)
    path: str = _key(..., "The folder with the images; `~` is your home.", min_length=1)

    @field_validator("path")
    @classmethod
    def _expand(cls, path: str) -> str:
        return _expanded(path)


class Toy(_Dataset):
    """Generated drawings: no download, deterministic in the seed."""

    format: Literal["toy_flowers", "toy_butterflies"] = _key(..., FORMAT)
    train: int = _key(
        ..., "How many drawings to train on.", "images", ge=1, le=MOST_DRAWINGS
    )
    held_out: int = _key(
        0, "How many further drawings no diffusion model sees.", "images", ge=0,
        le=MOST_DRAWINGS,
    )  # fmt: skip


Dataset = Annotated[
    OxfordFlowers | Parquet | ZipArchive | Folder | Toy, Field(discriminator="format")
]


class Preprocess(Section):
    """From image files to one uint8 array (dissertation, section 3.4.3)."""

    image_size: int = _key(
        128, "Side of the square images; a multiple of 8.", "pixels", ge=8, le=1024,
        multiple_of=8,
    )  # fmt: skip
    background: list[Annotated[int, Field(ge=0, le=255)]] = _key(
        [255, 255, 255],
        "Colour that transparent pixels are composited on.",
        "red, green, blue; 0 to 255",
        min_length=3,
        max_length=3,
    )
    minimum_size: int = _key(
        8, "An image whose shorter side is below this is rejected.", "pixels", ge=1,
        le=8000,
    )  # fmt: skip
    on_bad_file: Literal["skip", "refuse"] = _key(
        "skip", "skip: name it in rejected.csv and go on; refuse: end with an error."
    )
    on_duplicate: Literal["skip", "keep", "refuse"] = _key(
        "skip",
        "What to do with a file whose bytes equal an earlier one's; an official split "
        "is kept whole unless this is refuse.",
    )


class Network(Section):
    """The U-Net that predicts the noise."""

    preset: Preset = _key(
        "ddpm-113m", "ddpm-113m has 113,673,219 parameters, the dissertation's."
    )


class DiffusionGrid(Section):
    """The forward processes to compare: every schedule with every T."""

    schedules: list[Schedule] = _key(
        ["linear"],
        "linear: beta from 1e-4 to 0.02 whatever T is (the dissertation's); "
        "linear_scaled: beta times 1000/T; cosine: Nichol & Dhariwal 2021.",
        min_length=1,
    )
    steps: list[Annotated[int, Field(ge=1, le=MOST_STEPS)]] = _key(
        ..., "Numbers of noise steps T; one model is trained for each.", "steps",
        min_length=1,
    )  # fmt: skip

    @model_validator(mode="after")
    def _unique(self) -> DiffusionGrid:
        return _each_once(self, "schedules", "steps")


class Wandb(Section):
    """Weights & Biases; needs the `wandb` extra."""

    mode: Literal["disabled", "offline", "online"] = _key(
        "disabled", "offline writes below logs/, to be synchronised later."
    )
    project: Name = _key("noisesteps", "Project that the runs are filed under.")


class Training(Section):
    """Optimisation of the noise prediction (dissertation, section 3.4.4)."""

    epochs: int = _key(
        50, "Passes over the training images.", "epochs", ge=1, le=MOST_EPOCHS
    )
    optimizer_steps: int | None = _key(
        None, "Train for this many updates instead of `epochs`; null: use `epochs`.",
        "updates", ge=1, le=MOST_UPDATES,
    )  # fmt: skip
    batch_size: int = _key(16, "Images in an update.", "images", ge=1, le=MOST_TOGETHER)
    learning_rate: float = _key(
        1e-4, "Adam's learning rate after the warm-up (lr_base, eq. 3.11).",
        gt=0, le=1,
    )  # fmt: skip
    learning_rate_min: float = _key(
        0.0, "Learning rate at the end of the cosine (lr_min, eq. 3.12).", ge=0, le=1
    )
    warmup_steps: int = _key(
        500, "Updates of linear warm-up (eq. 3.11).", "updates", ge=0, le=MOST_UPDATES
    )
    precision: Literal["fp16", "bf16", "fp32"] = _key(
        "fp16", "Autocast type; fp16 scales the loss; weights stay fp32."
    )
    horizontal_flip: float = _key(
        0.5, "Probability that an image is mirrored.", "probability", ge=0, le=1
    )
    gradient_clip: float | None = _key(
        None, "Largest gradient norm; null: no clipping, as in the dissertation.", gt=0
    )
    ema_decay: float | None = _key(
        None, "Decay of the weights' moving average; null: none, as in the "
        "dissertation.", gt=0, lt=1,
    )  # fmt: skip
    recompute_activations: bool = _key(
        False,
        "Keep few activations for the backward pass and compute the rest again: the "
        "same weights from less memory, in more time.",
    )
    compile: Compile = _key(
        False,
        f"{COMPILE}a training has at least so many updates; needs a C++ compiler.",
    )
    checkpoint_epochs: int = _key(
        5, "A rolling checkpoint is written after this many epochs.", "epochs", ge=1,
        le=MOST_EPOCHS,
    )  # fmt: skip
    log_steps: int = _key(
        4, "A progress line after this many updates.", "updates", ge=1, le=MOST_UPDATES
    )
    tensorboard: bool = _key(True, "Write TensorBoard event files below logs/.")
    wandb: Wandb = _key(Wandb(), "Weights & Biases tracking.")
    seeds: int = _key(
        1,
        "Trainings of each model, from other weights and noise: how much of a score "
        "is chance.",
        "runs",
        ge=1,
        le=100,
    )

    def compiles(self, updates: int) -> bool:
        """Whether a training of so many updates compiles its network."""
        return bool(self.compile) and updates >= self.compile

    @property
    def compile_as_known(self) -> bool | int:
        """`compile`, decided where the study says how many updates there are."""
        updates = self.optimizer_steps
        return self.compile if updates is None else self.compiles(updates)

    @model_validator(mode="after")
    def _rates_are_ordered(self) -> Training:
        if self.learning_rate_min > self.learning_rate:
            raise ValueError("learning_rate_min must not exceed learning_rate")
        return self


class FewerSteps(Section):
    """The models of the largest T, sampled in fewer steps than they were trained with.

    Beside the models trained with so few steps this tells whether a small T is bad to
    train or only bad to sample.
    """

    methods: list[Method] = _key(
        ["ancestral", "ddim"],
        "Samplers over evenly spaced timesteps: respaced ancestral sampling, DDIM.",
        min_length=1,
    )
    steps: list[Annotated[int, Field(ge=1, le=MOST_STEPS)]] | None = _key(
        None,
        "Numbers of sampling steps; null: every T of the study below the largest.",
        "steps",
        min_length=1,
    )

    @model_validator(mode="after")
    def _unique(self) -> FewerSteps:
        return _each_once(self, "methods", *(["steps"] if self.steps else []))


class Sampling(Section):
    """Images generated by each trained model (dissertation, section 3.4.5)."""

    images: int = _key(
        128, "Images that one score is computed from.", "images", ge=6, le=MOST_TOGETHER
    )
    seeds: int = _key(
        1,
        "Scores of each model, every one from `images` other images: the interval of "
        "a score needs 2 or more.",
        "scores",
        ge=1,
        le=100,
    )
    batch_size: int = _key(
        8,
        "Images generated together; if a GPU's free memory is too small for them, half "
        "of them, and so on: for as many as fit, set it to `images`.",
        "images",
        ge=1,
        le=MOST_TOGETHER,
    )
    method: Method = _key(
        "ancestral", "ancestral: DDPM's own sampler; ddim: Song et al. 2021, eta 0."
    )
    sampling_steps: int | None = _key(
        None, "Network evaluations an image, spaced evenly over T; null: all T.",
        "steps", ge=1, le=MOST_STEPS,
    )  # fmt: skip
    precision: Literal["fp16", "bf16", "fp32"] = _key("fp32", "Autocast type.")
    compile: Compile = _key(
        False,
        f"{COMPILE}there are at least so many denoising steps, those of all batches.",
    )
    fewer_steps: FewerSteps | None = _key(
        None, "Sample the models of the largest T in fewer steps too; null: do not."
    )

    def compiles(self, images: int, steps: int) -> bool:
        """Whether so many images in so many denoising steps compile the network."""
        calls = math.ceil(images / self.batch_size) * steps
        return bool(self.compile) and calls >= self.compile

    @model_validator(mode="after")
    def _batch_fits(self) -> Sampling:
        if self.batch_size > self.images:
            raise ValueError("batch_size must not exceed images")
        return self


class Evaluation(Section):
    """The distance between generated and training images."""

    extractor: Extractor = _key(
        "inception-v3",
        "inception-v3 gives FID; efficientnet-lite0 gives FD (EfficientNet-Lite0), "
        "which is not comparable with any FID.",
    )
    batch_size: int = _key(
        32, "Images the extractor sees together.", "images", ge=1, le=MOST_TOGETHER
    )
    weights: Distribution | None = _key(
        None, "The Inception weights; needed for extractor inception-v3 only."
    )

    @model_validator(mode="after")
    def _inception_has_weights(self) -> Evaluation:
        if self.extractor == "inception-v3" and self.weights is None:
            raise ValueError(
                "extractor inception-v3 needs weights; copy them from "
                "config/config.yaml or set extractor: efficientnet-lite0"
            )
        return self


class Classification(Section):
    """Whether generated images help to train a classifier (section 3.4.6)."""

    datasets: list[Name] = _key(
        ..., "The data sets to tell apart, each one class.", min_length=2
    )
    schedule: Schedule = _key("linear", "Schedule of the models that generate.")
    steps: int = _key(
        ..., "T of the models that generate.", "steps", ge=1, le=MOST_STEPS
    )
    sets: list[SetName] = _key(
        list(get_args(SetName)),
        "Training sets. origin: real images; synthesis: generated images; mix: both. "
        "Two controls as large as mix: origin_repeated, the real images twice (as many "
        "updates); origin_augmented, the real images and as many flipped, cropped and "
        "rotated versions of them.",
        min_length=1,
    )
    images_per_class: int = _key(
        150, "Images a class in Origin and in Synthesis.", "images", ge=1,
        le=MOST_TOGETHER,
    )  # fmt: skip
    architectures: list[Architecture] = _key(
        ["resnet18", "vgg16"],
        "torchvision networks, from random weights.",
        min_length=1,
    )
    seeds: int = _key(
        5,
        "Repetitions. Each has its own seed, which all sets "
        "of an architecture share: their accuracies are compared in pairs.",
        "runs",
        ge=1,
        le=1000,
    )
    epochs: int = _key(
        20, "Passes over the training set.", "epochs", ge=1, le=MOST_EPOCHS
    )
    batch_size: int = _key(32, "Images in an update.", "images", ge=2, le=MOST_TOGETHER)
    learning_rate: float = _key(1e-4, "Adam's learning rate.", gt=0, le=1)

    @model_validator(mode="after")
    def _unique(self) -> Classification:
        return _each_once(self, "datasets", "sets", "architectures")


class Figures(Section):
    """How pictures are drawn."""

    grid_columns: int = _key(
        8,
        "Samples in each row of the sample grids; all panels of a figure together "
        "show 16 at most.",
        "images",
        ge=1,
        le=16,
    )
    dpi: int = _key(150, "Resolution of PNG figures.", "dots an inch", ge=50, le=600)


class Study(Section):
    """A whole study, as its YAML file states it."""

    study: Name = _key(..., "Name of the folder below results/.")
    seed: int = _key(
        0, "Every random number of the study derives from it.", ge=0, lt=2**63
    )
    datasets: dict[Name, Dataset] = _key(..., "The data sets, by name.", min_length=1)
    preprocess: Preprocess = _key(Preprocess(), "From files to one array.")
    network: Network = _key(Network(), "The U-Net.")
    diffusion: DiffusionGrid = _key(..., "The forward processes to compare.")
    training: Training = _key(Training(), "Optimisation.")
    sampling: Sampling = _key(Sampling(), "Generation.")
    evaluation: Evaluation = _key(..., "Scores.")
    classification: Classification | None = _key(
        None, "Origin, Synthesis, Mix and controls; null: no classifiers."
    )
    figures: Figures = _key(Figures(), "Drawing.")

    @model_validator(mode="after")
    def _classification_uses_the_grid(self) -> Study:
        chosen = self.classification
        if chosen is None:
            return self
        for name in chosen.datasets:
            if name not in self.datasets:
                raise ValueError(
                    f"classification.datasets names {name}, which datasets lacks; "
                    f"use names of {', '.join(self.datasets)}"
                )
            if self.datasets[name].held_out == 0:
                raise ValueError(
                    f"datasets.{name}.held_out is 0, but classification tests on "
                    "held-out images; hold some out or remove classification"
                )
        if chosen.schedule not in self.diffusion.schedules:
            raise ValueError(
                f"classification.schedule {chosen.schedule} is not trained; "
                "add it to diffusion.schedules"
            )
        if chosen.steps not in self.diffusion.steps:
            raise ValueError(
                f"classification.steps {chosen.steps} is not trained; choose one of "
                "diffusion.steps"
            )
        return self

    @model_validator(mode="after")
    def _images_fit_the_network(self) -> Study:
        multiple = SIZE_MULTIPLES[self.network.preset]
        if self.preprocess.image_size % multiple:
            raise ValueError(
                f"network.preset {self.network.preset} needs a preprocess.image_size "
                f"that is a multiple of {multiple}, not {self.preprocess.image_size}"
            )
        return self

    @model_validator(mode="after")
    def _sampling_fits_every_T(self) -> Study:  # noqa: N802
        least = min(self.diffusion.steps)
        if (self.sampling.sampling_steps or 1) > least:
            raise ValueError(
                f"sampling.sampling_steps {self.sampling.sampling_steps} exceeds the "
                f"smallest of diffusion.steps, {least}; lower it"
            )
        return self

    @model_validator(mode="after")
    def _fewer_steps_are_fewer(self) -> Study:
        fewer, largest = self.sampling.fewer_steps, max(self.diffusion.steps)
        if fewer and max(fewer.steps or [0]) >= largest:
            raise ValueError(
                f"sampling.fewer_steps.steps {max(fewer.steps)} is no fewer than the "
                f"largest of diffusion.steps, {largest}; lower it"
            )
        if fewer and not self.fewer_steps:
            raise ValueError(
                "sampling.fewer_steps has no number of steps to use; name one below "
                f"diffusion.steps {largest}"
            )
        return self

    @model_validator(mode="after")
    def _data_sets_are_possible(self) -> Study:
        for name, dataset in self.datasets.items():
            if name in EXTRACTORS:
                raise ValueError(
                    f"datasets.{name} has the name of an extractor; choose another"
                )
            if dataset.held_out is None and not isinstance(dataset, OxfordFlowers):
                raise ValueError(
                    f"datasets.{name}.held_out is null, but its format has no split "
                    "of its own; give a number"
                )
            if dataset.epochs and self.training.optimizer_steps:
                raise ValueError(
                    f"datasets.{name}.epochs does nothing beside "
                    "training.optimizer_steps; remove one of them"
                )
        return self

    @model_validator(mode="after")
    def _enough_to_classify(self) -> Study:
        chosen = self.classification
        for name in chosen.datasets if chosen else []:
            train = self.datasets[name].train
            if train is not None and chosen.images_per_class > train:
                raise ValueError(
                    f"classification.images_per_class {chosen.images_per_class} "
                    f"exceeds datasets.{name}.train {train}; lower it"
                )
        return self

    @model_validator(mode="after")
    def _batch_is_no_larger_than_the_set(self) -> Study:
        for name, dataset in self.datasets.items():
            if dataset.train is not None and self.training.batch_size > dataset.train:
                raise ValueError(
                    f"training.batch_size {self.training.batch_size} exceeds "
                    f"datasets.{name}.train {dataset.train}; lower it"
                )
        return self

    @property
    def runs(self) -> list[Run]:
        """Every model of the study, in the order of the file."""
        return [run for dataset in self.datasets for run in self.runs_of(dataset)]

    def runs_of(self, dataset: str) -> list[Run]:
        """List the models of one data set: every schedule with every T and seed."""
        return [
            Run(dataset, schedule, steps, seed)
            for schedule in self.diffusion.schedules
            for steps in self.diffusion.steps
            for seed in range(self.training.seeds)
        ]

    @property
    def fewer_steps(self) -> list[int]:
        """Numbers of steps that the models of the largest T are sampled with too."""
        fewer, largest = self.sampling.fewer_steps, max(self.diffusion.steps)
        if fewer is None:
            return []
        return fewer.steps or [
            value for value in self.diffusion.steps if value < largest
        ]

    def respaced_runs_of(self, dataset: str) -> list[Run]:
        """List how a data set's models of the largest T are sampled in fewer steps."""
        largest = max(self.diffusion.steps)
        return [
            replace(run, sampler=f"{method}-{steps}")
            for run in self.runs_of(dataset)
            if run.steps == largest
            for steps in self.fewer_steps
            for method in self.sampling.fewer_steps.methods
        ]

    def sampling_of(self, run: Run) -> Sampling:
        """Return how a run is sampled: the study's way, or its own sampler."""
        if run.sampler is None:
            return self.sampling
        method, steps = run.sampler.split("-")
        update = {"method": method, "sampling_steps": int(steps)}
        return self.sampling.model_copy(update=update)

    def sampling_compiles(self, run: Run) -> bool:
        """Whether the images of a run are sampled with a compiled network."""
        sampling = self.sampling_of(run)
        steps = sampling.sampling_steps or run.steps
        return sampling.compiles(self.sample_images(run), steps)

    def epochs(self, dataset: str, train_images: int) -> int:
        """Count the epochs, the last of which `optimizer_steps` may cut short."""
        if self.training.optimizer_steps is not None:
            batches = math.ceil(train_images / self.training.batch_size)
            return math.ceil(self.training.optimizer_steps / batches)
        return self.datasets[dataset].epochs or self.training.epochs

    def sample_images(self, run: Run) -> int:
        """Count the images a run generates: enough to score and to classify."""
        images = self.sampling.images * self.sampling.seeds
        chosen = self.classification
        if (
            chosen
            and run.dataset in chosen.datasets
            and run == Run(run.dataset, chosen.schedule, chosen.steps)
        ):
            return max(images, chosen.images_per_class)
        return images

    def runs_of_set(self, name: str) -> list[Run]:
        """List the models whose images a set of the classifiers holds."""
        chosen = self.classification
        if name not in GENERATED_SETS:
            return []
        return [Run(part, chosen.schedule, chosen.steps) for part in chosen.datasets]

    def distribution(self, source: str) -> Distribution | None:
        """Return what is fetched for a data set or the extractor, if anything."""
        if source == self.evaluation.extractor:
            return self.evaluation.weights
        dataset = self.datasets.get(source)
        return dataset if isinstance(dataset, Distribution) else None

    def resource_folder(self, source: str) -> Path:
        """Folder of a distribution's files, shared by the studies that use them."""
        distribution = self.distribution(source)
        if distribution is None:
            raise ConfigError(f"{source} has nothing to fetch; leave fetch out.")
        return RESOURCES / source / distribution.version

    def settings(self, stage: str, run: Run | None = None, **names: str) -> dict:
        """Return the values that a stage reads, and nothing else, as JSON values.

        Snakemake reruns a stage when these change; a checkpoint carries their digest;
        the provenance of a result repeats them.

        Parameters
        ----------
        stage
            Name of the rule and sub-command.
        run
            The model's coordinates, for train, sample and score.
        **names
            Other coordinates, such as `dataset`.
        """
        dataset = run.dataset if run else names.get("dataset")
        return dict(self._reads(stage, dataset, run))

    def _reads(
        self, stage: str, dataset: str | None, run: Run | None
    ) -> Iterator[tuple[str, Any]]:
        if stage in RANDOM_STAGES:
            yield "seed", self.seed
        match stage:
            case "fetch":
                yield "version", self.distribution(dataset).version
            case "preprocess":
                chosen = self.datasets[dataset]
                yield "dataset", chosen.model_dump(mode="json", exclude=NOT_THE_IMAGES)
                yield "preprocess", self.preprocess.model_dump(mode="json")
                if isinstance(chosen, Folder):
                    yield "listing", folder_digest(chosen.path)
            case "train":
                yield "network", self.network.model_dump(mode="json")
                unread = {"epochs"} if self.training.optimizer_steps else set()
                unread |= OBSERVING | SAME_WEIGHTS | {"seeds"}
                compiles = self.training.compile_as_known
                yield "training", _read(self.training, unread, compiles)
                yield "epochs", self.datasets[dataset].epochs
            case "sample":
                compiles = self.sampling_compiles(run)
                yield "sampling", _read(self.sampling_of(run), COUNTING, compiles)
                yield "images", self.sample_images(run)
            case "reference" | "score":
                yield "extractor", self.evaluation.extractor
                yield "batch_size", self.evaluation.batch_size
                yield "images", self.sampling.images
                if stage == "score":
                    yield "seeds", self.sampling.seeds
            case "sets":
                yield "sets", self.classification.model_dump(include=CHOOSING)
            case "classify":
                yield "classify", self.classification.model_dump(include=LEARNING)
            case "tabulate":
                yield "images", self.sampling.images
                yield "seeds", [self.training.seeds, self.sampling.seeds]
            case "draw":
                yield "figures", self.figures.model_dump()
                yield "images", self.sampling.images
                yield "seeds", [self.training.seeds, self.sampling.seeds]
            case "report":
                yield "study", self.model_dump(mode="json")


def _status(path: Path) -> os.stat_result:
    """Follow a link, unless it leads nowhere."""
    return path.stat() if path.exists() else path.lstat()


def folder_digest(path: str) -> str:
    """Digest of the names, sizes and times below a folder: it changes with them."""
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            status = _status(Path(parent, name))
            line = f"{parent}/{name} {status.st_size} {status.st_mtime_ns}\n"
            digest.update(os.fsencode(line))
    return digest.hexdigest()[:16]


# Keys that shape no image of a data set, no weight of a model, no training set.
NOT_THE_IMAGES = {"epochs", "files", "mirror", "hint"}
OBSERVING = {"checkpoint_epochs", "log_steps", "tensorboard", "wandb"}
SAME_WEIGHTS = {"recompute_activations"}
COUNTING = {"images", "seeds", "fewer_steps"}


def _read(
    section: Training | Sampling, unread: set[str], compiles: bool | int
) -> dict[str, Any]:
    """Return what a stage reads of a section; of `compile`, what comes of it."""
    values = section.model_dump(exclude=unread | {"compile"})
    return values | ({"compile": compiles} if compiles else {})


CHOOSING = {"datasets", "schedule", "steps", "images_per_class"}
LEARNING = {"epochs", "batch_size", "learning_rate"}
RANDOM_STAGES = {
    "preprocess", "train", "sample", "reference", "score", "sets", "classify"
}  # fmt: skip


class _StudyLoader(yaml.SafeLoader):
    """Refuses what PyYAML lets pass or fails at: a key twice, `2026-02-30`, `<<`.

    A key twice breaks YAML's own rule. A scalar that its tag, stated or guessed, cannot
    be made of raises whatever Python's constructors raise. Merge keys would bring keys
    that stand there twice.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # of too many digits, if written in hexadecimal
            return value
        except (ValueError, LookupError, AttributeError, ArithmeticError) as error:
            tag = node.tag.rsplit(":", 1)[-1]
            raise yaml.constructor.ConstructorError(
                problem=f"{_SHORT.repr(node.value)} is no possible {tag}",
                problem_mark=node.start_mark,
            ) from error

    def refuse_merge(self, node: yaml.Node) -> None:
        raise yaml.constructor.ConstructorError(
            problem="merge keys (`<<`) are not supported: write out the keys instead",
            problem_mark=node.start_mark,
        )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [self.construct_object(key, deep=True) for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key `{key}` stands there twice",
                    problem_mark=node.start_mark,
                )
        return super().construct_mapping(node, deep)


_StudyLoader.add_constructor("tag:yaml.org,2002:merge", _StudyLoader.refuse_merge)


def load_study(path: str | Path) -> Study:
    """Read and validate a study.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML or breaks the schema. The message is one
        sentence that names the key and the remedy.
    """
    path = Path(path)
    try:
        loader = _StudyLoader(path.read_text(encoding="utf-8"))
        loader.name = path.name  # in the message, instead of "<unicode string>"
        values = loader.get_single_data()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(
            f"{path} is not valid YAML: {problem}; correct it."
        ) from error
    study = parse_study(values, str(path))
    for name, dataset in study.datasets.items():
        if isinstance(dataset, Folder) and not _is_folder(dataset.path):
            raise ConfigError(
                f"{path}: `datasets.{name}.path` is {dataset.path}, which is no "
                "folder; correct it or create the folder."
            )
    return study


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # a name too long for any file system
        return False


def parse_study(values: Any, origin: str = "configuration") -> Study:
    """Validate the plain values of a study; `origin` is named in errors."""
    if not isinstance(values, dict):
        raise ConfigError(
            f"{origin} must hold keys such as `study`; see config/demo.yaml."
        )
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_sentence(error.errors()[0])}") from None


def _sentence(error: dict) -> str:
    """Turn pydantic's first complaint into one sentence with a remedy."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    key = _key_name(error["loc"])
    shown = _SHORT.repr(value)[:80]
    if kind == "extra_forbidden":
        return f"unknown key `{key}`{_suggestion(error['loc'])}; remove or rename it."
    if kind == "missing":
        return f"the key `{key}` is missing; add it (docs: config/README.md)."
    if kind == "value_error":
        inside = f"`{key}`: " if key else ""
        return f"{inside}{context['error']}."
    if kind == "string_pattern_mismatch":
        return f"`{key}` is {shown}, {_pattern_words(context['pattern'])}; change it."
    message = error["msg"].removeprefix("Input ").removeprefix("Value ")
    return f"`{key}` is {shown}, but {message[0].lower()}{message[1:]}; change it."


def _key_name(location: tuple) -> str:
    """Write a location as it would be said: `diffusion.steps[0]`."""
    parts = list(location)
    if len(parts) > 2 and parts[0] == "datasets":
        del parts[2]  # the format, which pydantic inserts after the name
    name = ""
    for part in parts:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part != "[key]":
            name += f".{part}" if name else part
    return name


def _suggestion(location: tuple) -> str:
    names = {name for section in _sections() for name in section.model_fields}
    close = difflib.get_close_matches(
        str(location[-1]), sorted(names - {location[-1]}), n=1
    )
    return f" (did you mean `{close[0]}`?)" if close else ""


def _pattern_words(pattern: str) -> str:
    return {
        NAME_PATTERN: "but a name takes letters, digits, `_` and `-` only",
        FILE_PATTERN: "but a file name takes letters, digits, `.`, `_` and `-` only",
        ADDRESS_PATTERN: "but an address starts with https:// or http://",
    }.get(pattern, f"but it must match {pattern}")


def _sections() -> list[type[Section]]:
    found, queue = [], [Section]
    while queue:
        children = queue.pop().__subclasses__()
        found += children
        queue += children
    return found
