"""The wheel installs one name, with what samkit reads at run time, and nothing that belongs to the checkout."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a wheel, built from a copy: building leaves folders behind."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("setuptools and pip are needed to build a wheel without the network")
    copy, wheels = tmp_path_factory.mktemp("copy") / "samkit", tmp_path_factory.mktemp("wheels")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*command, "--wheel-dir", wheels, copy], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = wheels.glob("samkit-*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_a_wheel_holds_exactly_one_top_level_name(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"samkit"}


@pytest.mark.parametrize(
    "file",
    [
        "samkit/__init__.py",
        "samkit/py.typed",
        "samkit/pipeline/cli.py",
        "samkit/stages/readers/nifti.py",
        "samkit/stages/encoders/sam.py",
        "samkit/stages/encoders/nano.safetensors",
        "samkit/stages/encoders/nano.md",
        "samkit/stages/synthesis/files.py",
        "samkit/stages/reporting/page.html.jinja",
        "samkit/store/FORMAT.md",
    ],
)
def test_a_wheel_holds_what_is_needed_at_run_time(names, file):
    assert file in names


def test_a_wheel_holds_every_module_of_the_packages(names):
    modules = {
        path.relative_to(ROOT).as_posix()
        for folder in ("pipeline", "stages", "heads", "store")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {f"samkit/{module}" for module in modules} <= set(names)


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "docs", ".ci"])
def test_a_wheel_leaves_the_checkout_at_home(names, folder):
    assert not [name for name in names if f"/{folder}/" in f"/{name}"]


def test_the_installed_command_starts_without_torch():
    program = "import sys; from samkit.pipeline.cli import run; run(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
