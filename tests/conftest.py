"""What every test may use: the command line as a user types it, real files, the real data where it is at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers with two threads each wait for each other on two cores: the heads' tests took 2.8 times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # tables as a pipe gets them, whatever the terminal or xdist says
SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@dataclass(frozen=True)
class Finished:
    """A command that has run: its exit code and what it printed, wrapping undone."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return " ".join((self.out + self.err).split())


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the user's key, weights and settings out of the tests, and the tests out of them."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SAMKIT_ID_KEY", "key-of-the-tests")
    monkeypatch.setenv("SAMKIT_WEIGHTS", str(home / "weights"))
    for name in ("SAMKIT_WORKSPACE", "SAMKIT_WEIGHTS_MIRROR", "SAMKIT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home)
    yield


@pytest.fixture
def samkit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Run one samkit command in this process: ``samkit("ingest", folder, "--window", "400/40")``."""
    from samkit.pipeline.cli import run

    def call(*arguments: object) -> Finished:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def shared_data() -> Path:
    """The real data beside the checkout; a test that asks for it skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the real data (../shared/data) is not beside this checkout")
    return SHARED.resolve()


@pytest.fixture
def write_pair() -> Callable[..., None]:
    """Write ``imagesTr/<name>.nii.gz`` and ``labelsTr/<name>.nii.gz``: a bright box in noise, labelled 1."""

    def write(
        folder: Path,
        name: str,
        *,
        shape: tuple[int, int, int] = (20, 16, 4),
        seed: int = 0,
        label: bool = True,
        label_value: int = 1,
        affine: np.ndarray | None = None,
    ) -> None:
        random = np.random.default_rng(seed)
        image = random.normal(100, 10, shape).astype(np.float32)
        mask = np.zeros(shape, np.uint8)
        low = random.integers(2, 5, size=2)
        mask[low[0] : low[0] + 8, low[1] : low[1] + 7, 1:3] = label_value
        image[mask > 0] += 120
        grid = np.diag([-1.5, -1.5, 5.0, 1.0]) if affine is None else affine
        for kind, values in (("imagesTr", image), ("labelsTr", mask)):
            if kind == "labelsTr" and not label:
                continue
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, grid), folder / kind / f"{name}.nii.gz")

    return write
