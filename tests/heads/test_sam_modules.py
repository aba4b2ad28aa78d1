"""segment-anything's modules are importable beside any torch, and are the package's own."""

import subprocess
import sys

from samkit.heads import sam_modules

# isort: split
import segment_anything.modeling  # after samkit's module, which makes it importable beside any torch


def test_the_modules_are_those_of_the_package():
    assert sam_modules.ImageEncoderViT is segment_anything.modeling.ImageEncoderViT
    assert sam_modules.MaskDecoder is segment_anything.modeling.MaskDecoder


def test_everything_that_is_exported_is_there():
    assert all(hasattr(sam_modules, name) for name in sam_modules.__all__)


def test_they_import_in_a_fresh_process():
    # The declarations are made at import and must outlive it: only a process that has imported nothing else shows it.
    code = "from samkit.heads.sam_modules import ImageEncoderViT; import segment_anything, torchvision.transforms"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
