"""Who may import whom, read from the imports themselves; and what every module of the package owes its reader."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import samkit

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("pipeline", "stages", "heads", "store")
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "__init__.py", *(found for layer in LAYERS for found in (ROOT / layer).rglob("*.py"))]
)
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")

# What a layer may use of the package: itself and what lies below it.
ALLOWED = {
    "pipeline": {"pipeline", "stages", "heads", "store"},
    "stages": {"stages", "heads", "store"},
    "heads": {"heads", "store"},
    "store": {"store"},
}
FILE_FORMATS = {"pydicom", "nibabel", "h5py", "SimpleITK", "highdicom"}
SAM_PACKAGES = {"segment_anything", "torchvision"}
DASK = {f"pipeline/{name}.py" for name in ("clients", "cluster", "forks", "stations", "trainers")}
HEAVY = ("torch", "zarr", "pydicom", "nibabel", "h5py", "distributed", "matplotlib", "fsspec")


@dataclass(frozen=True)
class Import:
    """One imported module: ``store.keys`` of the package, or ``torch`` from outside."""

    name: str
    inside: bool
    line: int

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def exists(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or path.is_dir()


def imports(module: str) -> Iterator[Import]:
    """Yield every import of a module, those inside functions and for type checkers included."""
    package = Path(module).parent.parts
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, inside=False, line=node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Import(node.module or "", inside=False, line=node.lineno)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - (node.level - 1)]
            base = ".".join([*start, *([node.module] if node.module else [])])
            # ``from . import console`` imports a module, ``from .keys import Recipe`` one of its names.
            members = [f"{base}.{alias.name}".strip(".") for alias in node.names]
            yield from (Import(name if exists(name) else base, inside=True, line=node.lineno) for name in members)


def outside(module: str) -> set[str]:
    return {found.top for found in imports(module) if not found.inside}


def below(folder: str) -> list[str]:
    return [module for module in MODULES if module.startswith(f"{folder}/")]


def public(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield the public classes, functions and methods of a module; what lies inside a function is nobody's business."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{child.name}.")


# -- the four layers -------------------------------------------------------------------------------


def test_the_modules_are_found():
    assert {module.partition("/")[0] for module in MODULES} == {"__init__.py", *LAYERS}
    assert {"ingest", "embed", "train", "predict", "report"} <= set(STAGES)


def test_the_imports_are_read():
    # Were the reader of imports blind, every rule below would hold.
    assert Import("store.keys", inside=True, line=0).name in {found.name for found in imports("stages/embed.py")}
    assert "torch" in outside("stages/embed.py")
    assert "zarr" in outside("store/arrays.py")


@pytest.mark.parametrize("module", [module for module in MODULES if "/" in module])
def test_imports_go_from_pipeline_to_stages_to_heads_to_store(module: str):
    layer = module.partition("/")[0]
    wrong = [found for found in imports(module) if found.inside and found.top not in ALLOWED[layer]]
    assert wrong == []


@pytest.mark.parametrize("module", MODULES)
def test_inside_the_package_imports_are_relative(module: str):
    assert "samkit" not in outside(module)
    assert not outside(module) & set(LAYERS)


def test_the_front_door_does_not_lead_into_the_pipeline():
    assert {found.top for found in imports("__init__.py") if found.inside} <= {"stages", "heads", "store"}


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_import_each_other(stage: str):
    others = {f"stages.{other}" for other in STAGES if other != stage}
    assert not {found.name for found in imports(f"stages/{stage}.py")} & others


MADE_OF = ("readers", "encoders", "synthesis", "training")


@pytest.mark.parametrize("module", [module for folder in MADE_OF for module in below(f"stages/{folder}")])
def test_what_the_stages_are_made_of_does_not_know_the_stages(module: str):
    assert not {found.name for found in imports(module)} & {f"stages.{stage}" for stage in STAGES}


# -- who knows what --------------------------------------------------------------------------------


@pytest.mark.parametrize("module", below("store"))
def test_the_store_knows_neither_torch_nor_a_file_format(module: str):
    assert not outside(module) & {"torch", *FILE_FORMATS, *SAM_PACKAGES}


@pytest.mark.parametrize("module", below("heads"))
def test_the_heads_know_no_file_format(module: str):
    assert not outside(module) & FILE_FORMATS


@pytest.mark.parametrize("module", MODULES)
def test_only_readers_and_the_synthesis_of_files_know_file_formats(module: str):
    if module.startswith(("stages/readers/", "stages/synthesis/")):
        return
    assert not outside(module) & FILE_FORMATS


@pytest.mark.parametrize("module", MODULES)
def test_only_one_module_imports_the_package_of_sam(module: str):
    if module == "heads/sam_modules.py":
        return
    assert not outside(module) & SAM_PACKAGES


@pytest.mark.parametrize("module", MODULES)
def test_only_one_module_imports_transformers(module: str):
    if module == "stages/encoders/transformers_models.py":
        return
    assert not outside(module) & {"transformers", "huggingface_hub"}


def test_transformers_is_imported_for_its_own_encoders_only():
    assert not loaded_by("import samkit.stages.encoders.transformers_models") & {"transformers", "torchvision"}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_place_in_an_object_store_imports_fsspec(module: str):
    if module == "store/remote.py":
        return
    assert not outside(module) & {"fsspec", "s3fs", "botocore"}


@pytest.mark.parametrize("module", [module for module in below("store") if module != "store/local.py"])
def test_only_the_place_in_a_directory_changes_the_file_system(module: str):
    # Whatever is written must be able to lie in an object store too, and must appear whole.
    changing = {"write_bytes", "write_text", "mkdir", "unlink", "rename", "rmtree", "touch", "fsync", "utime"}
    calls = {
        node.func.attr
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & changing


@pytest.mark.parametrize("module", MODULES)
def test_only_the_cluster_imports_dask(module: str):
    if module in DASK:
        return
    assert not outside(module) & {"dask", "distributed"}


# -- the front door --------------------------------------------------------------------------------


def loaded_by(program: str) -> set[str]:
    said = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint('LOADED', *sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(said.rpartition("LOADED")[2].split())


def test_import_samkit_loads_nothing_heavy():
    assert not loaded_by("import samkit") & set(HEAVY)


def test_samkit_help_loads_nothing_heavy():
    program = (
        "from samkit.pipeline.cli import main\n"
        "sys.argv = ['samkit', '--help']\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code"
    )
    loaded = loaded_by(program)
    assert "typer" in loaded
    assert not loaded & set(HEAVY)


def test_the_names_of_the_front_door_are_sorted_and_complete():
    assert list(samkit.__all__) == sorted(samkit.__all__)
    assert dir(samkit) == list(samkit.__all__)


def test_type_checkers_see_every_name_of_the_front_door():
    seen = {
        alias.name
        for node in ast.walk(tree("__init__.py"))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert seen == set(samkit.__all__) - {"__version__"}


@pytest.mark.parametrize("name", samkit.__all__)
def test_every_name_of_the_front_door_can_be_imported(name: str):
    assert getattr(samkit, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        samkit.nonsense  # noqa: B018


# -- what every module owes its reader -------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module: str):
    assert ast.get_docstring(tree(module))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_class_and_function_has_a_docstring(module: str):
    silent = [name for name, node in public(tree(module)) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert silent == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_printed_past_the_console(module: str):
    printing = [
        node.lineno
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


@pytest.mark.parametrize("layer", LAYERS)
def test_the_docstring_of_a_layer_names_its_modules(layer: str):
    said = ast.get_docstring(tree(f"{layer}/__init__.py")) or ""
    inside = [path.stem for path in (ROOT / layer).glob("*.py") if path.stem != "__init__"]
    assert [name for name in sorted(inside) if not re.search(rf"\b{name}\b", said)] == []
