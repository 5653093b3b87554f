"""The package as it is installed: built into a wheel, and used from a folder that is no checkout."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="no hatchling: pip install --editable '.[dev]'"
)


def built(target, folder):
    """Have hatchling build the checkout; returns the archive."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The Python of an environment that has the wheel, and shares all packages but afdsim with that of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # behind the wheel, so that an afdsim that lies there too is not found; its own .pth files are not read
    (site / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
    return folder / "bin" / "python"


def ask(python, folder, *words, module=("-m", "afdsim")):
    """Run a command in a folder without anything of the checkout on its path."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *module, *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_a_run_is_saved_verified_and_shown_from_any_folder(installed, tmp_path):
    few = ["--engine", "processes", "--set", "workload.num_requests=8", "--set", "workload.output_len.value=4"]
    ran, verified, listed = (
        ask(installed, tmp_path, *words)
        for words in (["run", "small", *few, "-o", "run"], ["verify", "run"], ["list", "scenarios"])
    )

    assert (ran.returncode, verified.returncode) == (0, 0), ran.stderr + verified.stderr
    assert "identical" in verified.stdout
    assert (tmp_path / "run" / "result.json").is_file()
    assert {path.stem for path in (REPOSITORY / "scenarios").glob("*.yaml")} - {"ratio.sweep"} <= set(
        listed.stdout.split()
    )


def test_a_file_that_init_writes_is_fine_with_the_schema_beside_it(installed, tmp_path):
    wrote, checked = (ask(installed, tmp_path, *words) for words in (["init", "mine.yaml"], ["check", "mine.yaml"]))

    assert (wrote.returncode, checked.returncode) == (0, 0), wrote.stderr + checked.stderr
    assert json.loads((tmp_path / "afdsim.schema.json").read_text(encoding="utf-8"))["$defs"]


def test_the_package_comes_from_the_wheel_and_says_that_the_suite_is_not_in_it(installed, tmp_path):
    found = ask(installed, tmp_path, "import afdsim; print(afdsim.__file__)", module=("-c",))
    suite = ask(installed, tmp_path, "verify")

    assert Path(found.stdout.strip()).is_relative_to(installed.parent.parent)
    assert (suite.returncode, suite.stderr.count("\n")) == (2, 1)
    assert "make verify" in suite.stderr


def test_a_wheel_has_every_file_of_the_package_and_the_scenarios_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {
        path for path in (REPOSITORY / "afdsim").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    scenarios = {path for path in (REPOSITORY / "scenarios").iterdir() if path.is_file()}
    wanted = {path.relative_to(REPOSITORY).as_posix() for path in package}
    wanted |= {f"afdsim/scenarios/{path.name}" for path in scenarios}

    assert inside == wanted


def test_a_source_archive_has_all_that_its_tests_and_documents_read(tmp_path):
    with tarfile.open(built("sdist", tmp_path)) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("afdsim", "scenarios", "tests", "verification", "experiments", "docs")
    made = {"__pycache__", "_build", "_made", ".hypothesis"}
    wanted = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in folders
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and not made & set(path.parts)
    }

    assert sorted(wanted - inside) == []
    assert {"Makefile", "CITATION.cff", "MODEL.md", "CHANGELOG.md", "CONTRIBUTING.md", ".ci/run"} <= inside
