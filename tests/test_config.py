"""The study: every bad value is one sentence, and each stage reads its own keys."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from noisesteps import schema
from noisesteps.cli import main
from noisesteps.config import RANDOM_STAGES, load_study, parse_study
from noisesteps.errors import ConfigError
from noisesteps.paths import Run

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
DEMO = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())


def changed(path, value, base=DEMO):
    """Return a copy of a study's values with the key at a dotted path set."""
    values = copy.deepcopy(base)
    *parents, last = path.split(".")
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return values


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()  # the folder that own-images.yaml names
    load_study(path)
    jsonschema.validate(
        yaml.safe_load(path.read_text()),
        schema.json_schema(),
        cls=jsonschema.Draft202012Validator,
    )


def test_the_dissertation_has_its_sixty_models():
    study = load_study(ROOT / "config" / "config.yaml")
    assert len(study.runs) == 60
    assert study.runs[0] == Run("oxford_flowers", "linear", 100)
    assert {run.steps for run in study.runs} == set(range(100, 2001, 100))


BAD = [
    ("diffusion.steps", [0, 100], "diffusion.steps[0]"),
    ("diffusion.steps", [100, 100], "steps lists a value twice"),
    ("diffusion.steps", [], "diffusion.steps"),
    ("diffusion.steps", "100", "diffusion.steps"),
    ("diffusion.steps", [1.5], "diffusion.steps[0]"),
    ("diffusion.schedules", ["quadratic"], "diffusion.schedules[0]"),
    ("diffusion.schedule", ["linear"], "did you mean `schedules`?"),
    ("training.epoch", 3, "did you mean `epochs`?"),
    ("training.epochs", -1, "training.epochs"),
    ("training.batch_size", 0, "training.batch_size"),
    ("training.batch_size", 100_000, "batch_size 100000 exceeds datasets.toy_"),
    ("training.learning_rate", "1e-4", "training.learning_rate"),
    ("training.learning_rate_min", 0.5, "learning_rate_min must not exceed"),
    ("training.precision", "fp8", "training.precision"),
    ("training.compile", 0, "`training.compile`: 0 is not true, false or a number"),
    ("training.compile", "yes", "'yes' is not true, false or a number"),
    ("sampling.compile", 1.5, "`sampling.compile`: 1.5 is not true, false"),
    ("training.ema_decay", 1.0, "training.ema_decay"),
    ("training.horizontal_flip", 1.5, "training.horizontal_flip"),
    ("training.tensorboard", "yes", "training.tensorboard"),
    ("training.wandb", {"mode": "cloud"}, "training.wandb.mode"),
    ("preprocess.image_size", 30, "preprocess.image_size"),
    ("preprocess.background", [0, 0, 256], "preprocess.background[2]"),
    ("preprocess.background", [0, 0], "preprocess.background"),
    ("sampling.batch_size", 100_000, "batch_size must not exceed images"),
    ("sampling.images", 1, "sampling.images"),
    ("evaluation.extractor", "inception-v3", "needs weights"),
    ("evaluation.extractor", "vgg", "evaluation.extractor"),
    ("classification.steps", 7, "classification.steps 7 is not trained"),
    ("classification.schedule", "cosine", "cosine is not trained"),
    ("classification.datasets", ["toy_flowers", "cats"], "names cats"),
    ("classification.datasets", ["toy_flowers"], "classification.datasets"),
    ("datasets.toy_flowers.held_out", 0, "held_out is 0"),
    ("datasets.toy_flowers.train", 500_001, "datasets.toy_flowers.train"),
    ("datasets.toy_flowers.train", "many", "datasets.toy_flowers.train"),
    ("datasets.toy_flowers.format", "toy_cats", "toy_cats"),
    ("datasets", {"../x": {"format": "folder", "path": "x"}}, "letters, digits"),
    ("datasets", {"a;b": {"format": "folder", "path": "x"}}, "letters, digits"),
    ("datasets", {"a b": {"format": "folder", "path": "x"}}, "letters, digits"),
    ("datasets", {}, "datasets"),
    ("study", "../../home", "study"),
    ("study", "$(touch x)", "study"),
    ("seed", -1, "seed"),
    ("seed", True, "seed"),
    ("figures.dpi", 10_000, "figures.dpi"),
    ("network.preset", "ddpm-1b", "network.preset"),
    ("training.gradient_clip", float("inf"), "training.gradient_clip"),
    ("training.learning_rate", float("nan"), "training.learning_rate"),
    ("network.preset", "ddpm-113m", "multiple of 32, not 16"),
    ("sampling.sampling_steps", 11, "sampling_steps 11 exceeds"),
    ("sampling.fewer_steps", {"steps": [10, 200]}, "steps 200 is no fewer than"),
    ("classification.batch_size", 1, "classification.batch_size"),
    ("classification.datasets", ["toy_flowers"] * 2, "datasets lists a value twice"),
    ("classification.images_per_class", 600, "images_per_class 600 exceeds"),
    ("datasets.toy_flowers.epochs", 3, "epochs does nothing beside"),
    ("datasets.inception-v3", {"format": "folder", "path": "x"}, "of an extractor"),
    (
        "datasets.mine",
        {"format": "folder", "path": "x", "held_out": None},
        "held_out is null",
    ),
]


@pytest.mark.parametrize(("path", "value", "named"), BAD, ids=str)
def test_a_bad_value_is_refused_in_one_sentence(tmp_path, path, value, named):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)))
    result = CliRunner().invoke(
        main, ["preprocess", "--config", str(file), "--dataset", "toy_flowers"]
    )
    assert result.exit_code == 2
    assert named in result.output
    assert str(file) in result.output
    assert "Traceback" not in result.output
    assert result.output.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == [file]


def test_what_depends_on_compile_is_whether_it_compiles():
    """The demo trains 500 updates, and samples 96 images by 32 in T steps."""
    run = parse_study(DEMO).runs[0]
    assert run.steps == 10
    for path, stage, limit in (
        ("training.compile", "train", 500),
        ("sampling.compile", "sample", 3 * 10),
    ):
        inputs = {
            value: str(parse_study(changed(path, value)).settings(stage, run))
            for value in (False, True, 2, limit, limit + 1)
        }
        assert inputs[True] == inputs[2] == inputs[limit]
        assert inputs[False] == inputs[limit + 1] != inputs[True]


@pytest.mark.parametrize("value", [True, False, 1, 5000])
def test_compile_keeps_what_it_is_given(value):
    study = parse_study(changed("training.compile", value))
    found = study.training.compile
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    "text", ["", "a: [", "- 1", "\x00", "study: !!python/name:os", "a: 1\na: 2"]
)
def test_a_file_that_is_no_study_is_named(tmp_path, text):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=str(file)):
        load_study(file)


@pytest.mark.parametrize(
    "scalar",
    [
        "2026-02-30",
        "2001-99-99",
        "2001-01-01 00:00:00 +99:99",
        "9" * 6000,
        "0x" + "f" * 6000,
        "!!int abc",
        "!!int ''",
        "!!float abc",
        "!!bool maybe",
        "!!timestamp foo",
        "!!set [1]",
    ],
    ids=lambda scalar: scalar[:30],
)
@pytest.mark.parametrize("text", ["seed: 1\nstudy: {}\n", "seed: 1\n? {}\n: 1\n"])
def test_a_value_that_cannot_be_is_named_with_its_line(tmp_path, text, scalar):
    file = tmp_path / "study.yaml"
    file.write_text(text.format(scalar))
    with pytest.raises(ConfigError) as error:
        load_study(file)
    message = str(error.value)
    assert message.startswith(f"{file} is not valid YAML: ")
    assert "line 2" in message
    assert scalar[:30] in message
    assert len(message) < 400 + len(str(file))


def test_merge_keys_are_refused_by_name(tmp_path):
    file = tmp_path / "study.yaml"
    text = "datasets:\n  one: &one {format: toy_flowers}\n  two:\n    <<: *one\n"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"merge keys \(`<<`\).*line 4"):
        load_study(file)


@pytest.mark.parametrize(
    "dataset",
    [
        {"format": "folder", "path": "~nosuchuser/x"},
        {
            "format": "zip",
            "files": {"a.zip": {}},
            "mirror": {"location": "~nosuchuser/x", "sha256": {"a.zip": "0" * 64}},
        },
    ],
    ids=lambda dataset: dataset["format"],
)
def test_the_home_of_nobody_is_named(dataset):
    with pytest.raises(ConfigError, match=r"datasets\.mine\..*~nosuchuser/x starts"):
        parse_study(changed("datasets.mine", dataset))


def test_a_path_too_long_for_any_file_is_no_folder(tmp_path):
    file = tmp_path / "study.yaml"
    mine = {"format": "folder", "path": "a" * 5000}
    file.write_text(yaml.safe_dump(changed("datasets.mine", mine)))
    with pytest.raises(ConfigError, match=r"datasets\.mine\.path.*no folder"):
        load_study(file)


def integers(schema, name=""):
    """Yield each integer of a JSON schema, and where it stands."""
    if isinstance(schema, list):
        for part in schema:
            yield from integers(part, name)
    elif isinstance(schema, dict):
        if schema.get("type") == "integer":
            yield name, schema
        for key, part in schema.items():
            yield from integers(part, f"{name}.{key}")


def test_every_number_of_the_config_has_bounds():
    """Beyond 64 bits, or of a size without end, a stage would fail or never end."""
    found = list(integers(schema.json_schema()))
    assert len(found) > 30
    for name, limits in found:
        assert "minimum" in limits, name
        assert limits.keys() & {"maximum", "exclusiveMaximum"}, name


def test_fewer_steps_need_a_smaller_number():
    values = changed("diffusion.steps", [50])
    values["sampling"]["fewer_steps"] = {}
    with pytest.raises(ConfigError, match="fewer_steps has no number of steps"):
        parse_study(values)


def test_a_key_that_stands_twice_is_named(tmp_path):
    """YAML forbids it; PyYAML would take the second."""
    file = tmp_path / "study.yaml"
    text = (ROOT / "config" / "demo.yaml").read_text()
    file.write_text(text + "\nfigures: {dpi: 100}\nfigures: {dpi: 200}\n")
    with pytest.raises(ConfigError, match="`figures` stands there twice"):
        load_study(file)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        load_study(tmp_path / "nowhere.yaml")
    file = tmp_path / "study.yaml"
    absent = {"format": "folder", "path": str(tmp_path / "absent")}
    file.write_text(yaml.safe_dump(changed("datasets.mine", absent)))
    with pytest.raises(ConfigError, match=r"datasets\.mine\.path"):
        load_study(file)


def test_a_mirror_must_bring_a_checksum_for_each_file():
    small = yaml.safe_load((ROOT / "config" / "small.yaml").read_text())
    del small["datasets"]["oxford_flowers"]["mirror"]["sha256"]["setid.mat"]
    with pytest.raises(ConfigError, match=r"mirror\.sha256 lacks setid\.mat"):
        parse_study(small)


READERS = [
    ("seed", 1, RANDOM_STAGES),
    ("sampling.seeds", 9, {"sample", "score", "tabulate", "draw"}),
    ("training.seeds", 9, {"tabulate", "draw"}),
    ("preprocess.image_size", 32, {"preprocess"}),
    ("network.preset", "tiny", {"train"}),
    ("training.learning_rate", 0.5, {"train"}),
    ("training.log_steps", 9, set()),
    ("training.epochs", 9, set()),  # optimizer_steps is set
    ("sampling.batch_size", 3, {"sample"}),
    ("sampling.images", 99, {"sample", "reference", "score", "tabulate", "draw"}),
    ("evaluation.batch_size", 3, {"reference", "score"}),
    ("classification.images_per_class", 9, {"sets"}),
    ("classification.epochs", 9, {"classify"}),
    ("figures.dpi", 99, {"draw"}),
    ("datasets.toy_butterflies.train", 999, set()),
    ("diffusion.steps", [10, 50, 200, 400], set()),
]
STAGES = (
    *("preprocess", "train", "sample", "reference", "score"),
    *("sets", "classify", "tabulate", "draw", "report"),
)


@pytest.mark.parametrize(("path", "value", "readers"), READERS, ids=str)
def test_a_change_is_seen_by_the_stages_that_read_it_alone(path, value, readers):
    before, after = parse_study(DEMO), parse_study(changed(path, value))
    run = Run("toy_flowers", "linear", before.diffusion.steps[0])
    differing = {
        stage
        for stage in STAGES
        if before.settings(stage, run) != after.settings(stage, run)
    }
    assert differing == readers | {"report"}


def test_settings_are_plain_json():
    study = parse_study(DEMO)
    for stage in STAGES:
        settings = study.settings(stage, study.runs[0])
        assert json.loads(json.dumps(settings)) == settings


def test_the_schema_and_the_table_of_keys_are_in_step():
    """`make schema` writes both anew."""
    assert (ROOT / schema.SCHEMA).read_text() == schema.schema_text()
    text = (ROOT / schema.README).read_text()
    assert schema.readme(text) == text


def test_every_key_has_a_description():
    described = schema.json_schema()
    for part in [described, *described["$defs"].values()]:
        for name, field in part["properties"].items():
            assert field.get("description"), name
