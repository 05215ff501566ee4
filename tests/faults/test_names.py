"""Names that a shell, a path or a table might take for more than a name."""

import csv
import re
import shutil
from pathlib import Path

import harness
import hostile
import pytest
import yaml

# Each would leave a file called `ran...` if a shell read it.
NAMES = [
    "a;touch ran1;.png",
    "$(touch ran2).png",
    "`touch ran3`.png",
    "a b.png",
    "a\nb.png",
    "a\ttab.png",
    "-rf.png",
    "'; touch ran4; '.png",
    '"; touch ran5; ".png',
    "| touch ran6.png",
    "& touch ran7.png",
    "{wildcards.dataset}.png",
    "%(ran8)s {ran9}.png",
    "=cmd|' -C calc'!A0.png",
    "Blüte 花 🌸.png",
    "..png",
    "a,b,\"c\".png",
    "*.png",
    "~.png",
    "\u202egnp.a.png",
]  # fmt: skip
FOLDERS = ["$(touch ran10)", "a; touch ran11", "花 and\nmore"]
HOSTILE = "my $(touch ran12) & `touch ran13`; 'touch' \"ran14\" 花"


def nothing_ran(folder: Path) -> bool:
    return not any(path.name.startswith("ran") for path in folder.rglob("*"))


def make_images(root: Path) -> dict[str, str]:
    """Write an image for each name; return the label of each source."""
    labels = {}
    for number, name in enumerate(NAMES):
        label = FOLDERS[number % len(FOLDERS)]
        path = root / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hostile.picture(number))
        labels[f"{label}/{name}"] = label
    return labels


def use_images(folder: Path, dataset: dict) -> None:
    values = {"train": len(NAMES) - 5, "held_out": 4, **dataset}
    harness.write_config(folder, datasets={"mine": values})


def manifest(folder: Path) -> dict[str, str]:
    path = folder / harness.RESULTS / "data/mine/manifest.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return {row["source"]: row["label"] for row in csv.DictReader(file)}


def test_the_names_of_files_are_kept_and_not_run(tmp_path):
    labels = make_images(tmp_path / "images")
    use_images(tmp_path, {"format": "folder", "path": "images"})
    harness.run(tmp_path, "preprocess", "--dataset", "mine").check()
    hidden = {source for source in labels if source.rpartition("/")[2][0] == "."}
    assert manifest(tmp_path) == {
        source: label for source, label in labels.items() if source not in hidden
    }
    assert nothing_ran(tmp_path)


def test_the_names_of_members_are_kept_and_not_run(tmp_path):
    from noisesteps.config import load_study

    use_images(tmp_path, {"format": "zip", "files": {"a.zip": {}}})
    archives = tmp_path / load_study(tmp_path / "tiny.yaml").resource_folder("mine")
    archives.mkdir(parents=True)
    members = []
    for number, name in enumerate(NAMES):
        image = hostile.picture(number)
        label = FOLDERS[number % len(FOLDERS)]
        members.append((f"{label}/{name}", hostile.STORED, len(image), image))
    # A hand-written listing says that its names are UTF-8 by nothing; ASCII ones do.
    members = [member for member in members if member[0].isascii()]
    hostile.write_zip(archives / "a.zip", members)
    use_images(
        tmp_path, {"format": "zip", "files": {"a.zip": {}}, "train": None,
                   "held_out": 2},
    )  # fmt: skip
    harness.run(tmp_path, "preprocess", "--dataset", "mine").check()
    assert set(manifest(tmp_path)) == {
        member[0] for member in members if member[0].rpartition("/")[2][0] != "."
    }
    assert nothing_ran(tmp_path)


def test_paths_are_quoted_in_the_lines_that_snakemake_gives_to_a_shell(tmp_path):
    """The checkout, the working directory, the config and the images' folder."""
    checkout = tmp_path / f"checkout {HOSTILE}"
    for part in ("src", "workflow", "envs"):
        shutil.copytree(
            harness.ROOT / part, checkout / part,
            ignore=shutil.ignore_patterns("__pycache__"),
        )  # fmt: skip
    shutil.copy(harness.ROOT / "Snakefile", checkout)
    (checkout / "profiles").symlink_to("workflow/profiles")
    work = tmp_path / f"work {HOSTILE}"
    make_images(tmp_path / f"images {HOSTILE}")
    use_images(work, {"format": "folder", "path": f"../images {HOSTILE}"})
    config = work / f"{HOSTILE}.yaml"
    (work / "tiny.yaml").rename(config)
    record = harness.RESULTS / "data/mine/dataset.json"
    line = harness.snakemake_line(checkout, config.name, record.as_posix())
    harness.end(harness.Process(work, line)).check()
    assert (work / record).exists()
    assert nothing_ran(tmp_path)


LINES = harness.shell_lines()
# Names, and numbers that the workflow makes of the study itself.
SAFE = r"wildcards\.\w+|params\.coordinates|threads|log:q"


@pytest.mark.parametrize(("rule", "line"), LINES.items(), ids=LINES)
def test_a_rule_quotes_what_is_no_name(rule, line):
    assert "$" not in line.replace('"$NOISESTEPS_CONFIG"', "")
    assert line.endswith(" > {log:q} 2>&1")
    assert all(re.fullmatch(SAFE, field) for field in re.findall(r"{(.*?)}", line))


def test_every_rule_is_looked_at():
    stages = {str(stage) for stage in harness.STAGES}
    assert set(LINES) == stages | {"fetch"}


BAD = [
    *("a;touch ran1", "$(touch ran2)", "a b", "a\nb", "a\n", "`touch ran3`", "../a"),
    *("a/b", "", ".", "-rf", "花", "a" * 65, "a'b", 'a"b', "{dataset}", "a\x00b"),
]


# A place, and what may stand there.
PLACES = {"study": [], "data set": [], "file": ["a" * 65], "project": []}


@pytest.mark.parametrize(
    ("place", "name"),
    [(place, name) for place in PLACES for name in BAD if name not in PLACES[place]],
)
def test_a_name_that_could_be_more_is_refused(tmp_path, place, name):
    """What names a folder, a file or a target takes letters, digits and dashes."""
    values = dict(harness.STUDY)
    toy = {"format": "toy_flowers", "train": 20, "held_out": 8}
    match place:
        case "study":
            values["study"] = name
        case "data set":
            values["datasets"] = values["datasets"] | {name: toy}
        case "file":
            archive = {"format": "zip", "files": {name: {}}}
            values["datasets"] = values["datasets"] | {"mine": archive}
        case "project":
            wandb = {"project": name}
            values["training"] = values["training"] | {"wandb": wandb}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    message = harness.refusal(tmp_path, *harness.PREPROCESS.command)
    assert "tiny.yaml" in message
    assert nothing_ran(tmp_path)


@pytest.mark.parametrize("name", BAD[:6])
@pytest.mark.parametrize(
    "command",
    [
        ("preprocess", "--dataset"),
        ("fetch", "--source"),
        ("tabulate", "--table"),
        ("draw", "--figure"),
        ("sets", "--set"),
        ("train", *harness.RUN[2:], "--dataset"),
        ("train", *harness.RUN[:2], *harness.RUN[4:], "--schedule"),
    ],
    ids=lambda command: " ".join((command[0], command[-1])),
)
def test_a_name_on_the_command_line_that_is_not_the_studys_is_refused(
    tmp_path, command, name
):
    harness.write_config(tmp_path)
    message = harness.refusal(tmp_path, *command, name)
    assert "choose one of" in message or "leave `fetch` out" in message
    assert nothing_ran(tmp_path)
