"""What the repository says of itself is so: the house, its links, the catalog."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from noisesteps import figures, tables
from noisesteps.config import load_study
from noisesteps.tables.build import COLUMNS
from test_workflow import dry_run, planned_jobs

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "noisesteps"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("docs/**/*.md")]
)
# What planning may import: Snakemake brings nothing of these.
HEAVY = {"torch", "numpy", "pandas", "scipy", "matplotlib", "torchvision", "PIL"}


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def rooms():
    """Return the rooms in the order of CONTRIBUTING's table, the highest first."""
    table = text_of("CONTRIBUTING.md").split("| room |")[1].split("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def imported_rooms(path):
    """Return the rooms that a module imports from."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "noisesteps":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").removeprefix("noisesteps.").split(".")[0])
    return names & set(rooms())


def test_contributing_lists_every_room():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(rooms()) == sorted(folders)


def test_a_room_imports_only_from_the_rooms_below_it():
    order = rooms()
    for place, room in enumerate(order):
        for module in (PACKAGE / room).rglob("*.py"):
            assert imported_rooms(module) <= set(order[place:]), module
    for module in PACKAGE.glob("*.py"):
        if module.stem not in ("cli", "stages"):
            assert not imported_rooms(module), module


def anchors(page):
    """Return the anchors that headings of a Markdown page get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading).lower() for heading in headings]
    return {word.replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md"])
def test_files_that_are_named_exist(name):
    named = re.findall(r"`([\w./-]+\.(?:py|smk|yaml|yml|md|lock|toml))`", text_of(name))
    assert named
    for file in named:
        assert (ROOT / file).exists() or (PACKAGE / file).exists(), file


def test_the_template_is_a_study_once_its_folder_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    study = load_study(ROOT / "config" / "own-images.yaml")
    dataset = study.datasets["pictures"]
    assert dataset.held_out >= study.sampling.images * study.sampling.seeds
    assert study.training.seeds >= 2


def uncommented(text):
    """Return the YAML that the template's comments hold, with the comment signs off."""
    start = text.index("# classification:")
    return yaml.safe_load(re.sub(r"^# ?", "", text[start:], flags=re.MULTILINE))


@pytest.fixture
def classifying(tmp_path, monkeypatch):
    """Return the template's study with two data sets and its comments taken off."""
    template = text_of("config/own-images.yaml")
    values = yaml.safe_load(template) | uncommented(template)
    pictures, names = values["datasets"]["pictures"], ["cats", "dogs"]
    values["datasets"] = {
        name: pictures | {"path": f"pictures/{name}"} for name in names
    }
    for name in names:
        (tmp_path / "pictures" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(values))
    return load_study("mine.yaml")


def test_the_page_on_own_images_names_what_there_is(classifying):
    page = text_of("docs/own-images.md")
    made = set(re.findall(r"\b(\w+)\.csv", page)) - {"manifest", "rejected", "nearest"}
    assert {"plateau", "copies", "classification_effects"} <= made
    assert made <= set(tables.table_names(classifying))
    drawn = set(re.findall(r"`(?:figures/)?([\w{}]+)\.png`", page))
    assert drawn
    for name in drawn:
        assert name.format(dataset="cats") in figures.figure_names(classifying)


def test_the_page_on_own_images_names_columns_that_there_are():
    page = text_of("docs/own-images.md").split("\n## 6.")[1].split("\n## 7.")[0]
    named = set(re.findall(r"`([a-z_]+)`", page)) - {"linear", "seed"}
    columns = {name for table in COLUMNS.values() for name in table}
    assert {"candidates", "pareto", "p_holm"} <= named <= columns


def test_the_page_on_own_images_names_keys_that_there_are(classifying):
    values = classifying.model_dump()
    keys = re.findall(r"`((?:\w+)\.(?:\w+))`", text_of("docs/own-images.md"))
    keys = [key.split(".") for key in keys if key.split(".")[0] in values]
    assert len(keys) > 10
    for section, key in keys:
        assert key in values[section], f"{section}.{key}"


def test_the_versions_agree():
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == version
    assert citation["license"] == "MIT"
    assert citation["authors"] == [{"name": "The noisesteps developers"}]
    assert version in text_of("CHANGELOG.md")


def test_the_catalog_finds_what_it_asks_for():
    """Its rules: generate-catalog.py of snakemake/snakemake-workflow-catalog."""
    usage = yaml.safe_load(text_of(".snakemake-workflow-catalog.yml"))["usage"]
    assert set(usage) <= {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["mandatory-flags"]["flags"].startswith("--")
    assert {"snakemake", "workflow"} <= set(text_of("README.md").lower().split())
    assert (ROOT / "workflow" / "Snakefile").is_file()
    assert list((ROOT / "workflow" / "rules").glob("*.smk"))
    assert not re.search(r"^!?\[.*badge", text_of("README.md"), re.MULTILINE)


def test_a_module_plans_what_the_snakefile_plans(tmp_path):
    """As snakedeploy writes it: a Snakefile that takes all rules from this one."""
    config = tmp_path / "config" / "config.yaml"
    config.parent.mkdir()
    shutil.copy(ROOT / "config" / "demo.yaml", config)
    (tmp_path / "Snakefile").write_text(
        'configfile: "config/config.yaml"\n\n\nmodule noisesteps:\n'
        f'    snakefile: "{ROOT / "workflow" / "Snakefile"}"\n'
        "    config: config\n\n\nuse rule * from noisesteps\n"
    )
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run"]
    deployed = planned_jobs(
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    )
    here = planned_jobs(dry_run(tmp_path, config))
    assert deployed.pop("study") == here.pop("all") == 1
    assert deployed == here


def test_planning_needs_no_more_than_snakemake_brings():
    """The catalog lints the workflow where only Snakemake is installed."""
    code = (
        "import sys; from noisesteps import config, figures, paths, tables; "
        "study = config.load_study('config/demo.yaml'); "
        "figures.figure_names(study), tables.table_names(study); "
        f"print({HEAVY} & {{name.split('.')[0] for name in sys.modules}})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.strip() == "set()", result.stderr
