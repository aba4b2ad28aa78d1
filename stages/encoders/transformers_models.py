"""Encoders through Hugging Face's `transformers`: SAM, SAM 2.1, SAM-HQ, DINOv2, DINOv3 and other ViTs.

An encoder is a folder as ``save_pretrained`` writes it and the hub hands it out: ``config.json``,
``preprocessor_config.json``, safetensors. ``hf:FOLDER`` or ``hf:ORGANISATION/NAME`` is what people type; a recipe keeps
``hf-NAME``, which is found again together with the folder of its weights. Nothing in the folder is executed: no
pickles, no code of the model's own.

The package is the optional extra ``samkit[transformers]``; this is the only module that imports it, when it needs it.

Shapes: B slices, S pixels of the square, C channels, h w cells of the embedding, T tokens.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from ...heads.base import LiveEncoderWeights, MaskDecoderWeights, seeded
from ...store.errors import UsageError, WeightsError
from ...store.keys import Recipe
from .devices import find_device, ieee_convolutions, resolve_precision
from .digests import file_sha256
from .memory import LESS_MEMORY, telling_of_memory
from .pixels import PixelRule, check_size, pixel_rule, prepare

_TYPED, _KEPT = "hf:", "hf-"
_KERNEL_PATH = "transformers"

# What is fetched of a repository: descriptions and safetensors, and not the same weights in other wrappings.
_CONFIG, _INDEX, _SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
# Of peft, which transformers loads where it is installed.
_ADAPTERS = "adapter_config.json"
_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
_FETCHED = [_CONFIG, *_PREPROCESSORS, _SINGLE, _INDEX, "model-*-of-*.safetensors"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# PIL's numbers of resampling filters, which a preprocessor's `resample` is.
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}

# Whole models by their config's type; of all others `AutoModel` builds what answers with tokens.
_SAM_CLASSES = {"sam": "SamModel", "sam_hq": "SamHQModel"}
# The published SAM 2.1 say that they are for video; the image model is a part of that one.
_SAM2_CLASSES = {"sam2": "Sam2Model", "sam2_video": "Sam2Model"}
# Tokens before the patches' tokens, by the last part of their parameter's name.
_CLASS_TOKENS, _REGISTERS = ("cls_token", "class_embedding", "distillation_token"), "register_tokens"
# Tensors that may be missing in a folder: they come after the tokens.
_BEHIND_THE_TOKENS = re.compile(r"(?:^|\.)(?:pooler|head)\.")


# -- a model by its name -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersModel:
    """A model of the hub or of a folder, not loaded; an `EncoderModel`."""

    #: In recipes and names of folders: "hf-dinov2-small".
    name: str
    #: What was typed after "hf:"; None where only the name is known and `load` is given the folder.
    source: str | None = None

    @staticmethod
    def is_named(text: str) -> bool:
        """Tell whether a name is one of these, as typed or as a recipe keeps it."""
        return text.startswith((_TYPED, _KEPT))

    @classmethod
    def named(cls, text: str) -> Self:
        """Return the model of ``hf:FOLDER``, ``hf:ORGANISATION/NAME`` or a recipe's ``hf-NAME``.

        Raises
        ------
        UsageError
            When no name can be made of what comes after the prefix.
        """
        kept = text.startswith(_KEPT)
        source = text.removeprefix(_KEPT if kept else _TYPED)
        last = source if kept else Path(source).name
        if last in ("", "..") and source and not kept:
            last = Path(source).expanduser().resolve().name
        # A recipe's folder is called <encoder>--<id>: no second hyphen, no letter that a file system refuses.
        safe = re.sub(r"[^A-Za-z0-9._]+", "-", last).strip("-.")
        if not safe or (kept and safe != last):
            message = f"--encoder {text}: give a folder or a name of the hub: hf:FOLDER, hf:ORGANISATION/NAME."
            raise UsageError(message)
        return cls(name=f"{_KEPT}{safe}", source=None if kept else source)

    @property
    def default_px(self) -> int:
        """Input size where none is asked for: what its preprocessing makes, else what it was built for."""
        folder = self.folder()
        _weights_in(folder)
        model = _vision_in(folder, self.name)
        return _default_px(model, _preprocessing_in(folder, self.name))

    @property
    def block_count(self) -> None:
        """None: each kind of model has one tap."""

    @property
    def own_weights(self) -> Path | None:
        """None: what its name points to is fetched only when it is asked for, see `folder`."""
        return None

    @property
    def needs_weights(self) -> bool:
        """True: those of its folder."""
        return True

    def folder(self) -> Path:
        """Return the folder of the weights: the one typed, or the hub's copy of it on this machine, fetched if need be.

        Raises
        ------
        WeightsError
            When it is not there and cannot be fetched; the command that fetches it is named.
        UsageError
            Without `transformers`, for a name of the hub.
        """
        if self.source is None:
            message = f"{self.name}: the folder of its weights is not known here. Give it: --encoder hf:FOLDER"
            raise WeightsError(message)
        folder = Path(self.source).expanduser()
        if folder.is_dir():
            return folder
        if folder.exists() or _HUB_NAME.fullmatch(self.source) is None:
            message = (
                f"--encoder {_TYPED}{self.source}: no folder is there, and it is no name of the Hugging Face hub "
                f"(ORGANISATION/NAME)."
            )
            raise WeightsError(message)
        return _fetched(self.source)

    def load(
        self,
        weights: Path | None,
        *,
        size: int | None = None,
        device: str = "cpu",
        precision: str = "float32",
        storage_precision: str = "float16",
        pixel_normalisation: str | None = None,
        tap: str | None = None,
    ) -> TransformersEncoder:
        """Load the encoder from a folder; with None, from the one that its name says.

        There is no seed: a folder has weights. Its own preprocessing is the default for pixels, with one exception:
        a slice is never cropped. Where the model's would cut the middle out, the whole slice is brought to that size.

        Parameters
        ----------
        weights
            The folder.
        size
            Side of the input square in pixels, a multiple of the patch (SAM 2: of 32, as its levels are halved);
            positions are interpolated.
        device, precision, storage_precision, pixel_normalisation
            As for every encoder; None for the model's own preprocessing.
        tap
            None, or the one that the model has.

        Raises
        ------
        UsageError
            A size, word or preprocessing that does not fit, or no `transformers` here.
        WeightsError
            A folder without such weights, or of a model that does not answer with a grid of features.
        DeviceError
            A device that is not there.
        """
        target = find_device(device)
        compute_precision = resolve_precision(precision, target)
        asked = None if pixel_normalisation is None else pixel_rule(pixel_normalisation)
        folder = self.folder() if weights is None else weights
        files = _weights_in(folder)
        # Its own preprocessing is not needed where all of it is overruled, as when a recipe is loaded again.
        own = _preprocessing_in(folder, self.name) if asked is None or size is None else None
        rule = asked if own is None else asked or own.rule
        if rule is None:
            message = (
                f"{folder}: no {_PREPROCESSORS[0]}, so it is not known what the model expects. Add the model's own, or "
                f"name a rule: --pixels NAME"
            )
            raise UsageError(message)
        vision = _vision_in(folder, self.name)
        if tap not in (None, vision.tap):
            message = f"--tap {tap}: of {self.name} only {vision.tap} can be had. Leave the flag out."
            raise UsageError(message)
        input_px = (rule.input_px or _default_px(vision, own)) if size is None else size
        check_size(self.name, input_px, vision.step_px)
        vision.fit(input_px)
        recipe = Recipe(
            encoder=self.name,
            weights_sha256=_digest_of(folder, files),
            tap=vision.tap,
            input_px=input_px,
            resize=rule.resize,
            pixel_normalisation=rule.name,
            compute_precision=compute_precision,
            storage_precision=storage_precision,
        )
        return TransformersEncoder(vision, recipe, target)


class TransformersEncoder:
    """A frozen image encoder of `transformers`; an `Encoder`."""

    def __init__(self, vision: _Vision, recipe: Recipe, device: torch.device) -> None:
        with telling_of_memory(device, f"loading {recipe.encoder}", LESS_MEMORY):
            self.model = vision.to(device).eval().requires_grad_(requires_grad=False)
        self.device = device
        self._recipe = recipe

    @property
    def recipe(self) -> Recipe:
        """Everything that changes the numbers."""
        return self._recipe

    @property
    def embedding_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one slice's embedding."""
        cells = self._recipe.input_px // self.model.cell_px
        return (self.model.channels, cells, cells)

    @property
    def trained(self) -> bool:
        """Always: the numbers come from a file."""
        return True

    @property
    def mask_decoder(self) -> MaskDecoderWeights | None:
        """None: heads that start from SAM's decoder take samkit's own ``sam_vit_*``."""
        return None

    @property
    def live(self) -> LiveEncoderWeights | None:
        """None: heads that train an encoder take samkit's own ``sam_vit_*``."""
        return None

    @property
    def kernel_paths(self) -> tuple[str, ...]:
        """The package's own forward pass, and no other."""
        return (_KERNEL_PATH,)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the embeddings, (B, C, h, w) float32, of (B, 1 or 3, H, W) images in [0, 1]."""
        return self.encode(self.prepare(images))

    def prepare(self, images: Tensor) -> Tensor:
        """Return (B, 3, S, S), normalised as the recipe says."""
        return prepare(
            images.to(self.device),
            input_px=self._recipe.input_px,
            pixel_normalisation=self._recipe.pixel_normalisation,
        )

    # Not inference_mode: a head could not be trained on its tensors.
    @torch.no_grad()
    def encode(self, prepared: Tensor, kernel_path: str | None = None) -> Tensor:
        """Return the embeddings, (B, C, h, w) float32, of prepared slices.

        Raises
        ------
        UsageError
            A kernel path that this version does not have.
        """
        if kernel_path not in (None, _KERNEL_PATH):
            message = (
                f"these rows were computed by {kernel_path!r}, and this version of samkit computes "
                f"{self._recipe.encoder} by {_KERNEL_PATH!r}. Install the version that made them, or embed into a new "
                f"workspace."
            )
            raise UsageError(message)
        half = self._recipe.compute_precision == "bfloat16"
        with ieee_convolutions(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            embedding: Tensor = self.model(prepared)
        return embedding.float().contiguous()


# -- what is run of a model --------------------------------------------------------------------------


class _Vision(nn.Module):
    """The part of a model that is run: (B, 3, S, S) -> (B, C, h, w)."""

    #: The name of that output, in recipes.
    tap: ClassVar[str]
    channels: int
    #: Pixels of the square for each cell of the embedding.
    cell_px: int
    #: The square's side is a multiple of it.
    step_px: int
    #: The side that it was built for; None where the config does not say.
    built_px: int | None

    def fit(self, input_px: int) -> None:
        """Make it take squares of this side, and look whether it does."""

    @abstractmethod
    def forward(self, prepared: Tensor) -> Tensor:
        """Return the features."""


class _Sam(_Vision):
    """The image encoder of SAM or SAM-HQ: its final image embedding.

    SAM-HQ's decoder reads the tokens of the first global block too; they are no tap yet.
    """

    tap = "neck"

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.encoder = model.vision_encoder
        config = self.encoder.config
        self.channels = config.output_channels
        self.cell_px = self.step_px = config.patch_size
        self.built_px = config.image_size

    def fit(self, input_px: int) -> None:
        """Bring the absolute positions to another grid, by the rule of `SamModel.resized_positions`.

        The relative positions of the global blocks are brought there by the package itself, in every pass.
        """
        grid = input_px // self.cell_px
        positions = self.encoder.pos_embed
        if positions is not None and positions.shape[1] != grid:
            image = F.interpolate(
                positions.detach().permute(0, 3, 1, 2), (grid, grid), mode="bilinear", align_corners=False
            )
            self.encoder.pos_embed = nn.Parameter(image.permute(0, 2, 3, 1).contiguous())
        self.encoder.patch_embed.image_size = (input_px, input_px)

    def forward(self, prepared: Tensor) -> Tensor:
        features: Tensor = self.encoder(prepared).last_hidden_state
        return features


class _Sam2(_Vision):
    """The image encoder of SAM 2: what its predictor calls ``image_embed``, (256, S / 16, S / 16).

    That is the coarsest level which its decoder reads, with the embedding that says "no memory of other frames" added.
    The two finer levels (32 x S / 4 and 64 x S / 8, ``high_res_feats``) are no taps yet.
    """

    tap = "image-embed"

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.encoder = model.vision_encoder
        self.no_memory = nn.Parameter(model.no_memory_embedding.detach().reshape(1, -1, 1, 1))
        config, backbone = self.encoder.config, self.encoder.config.backbone_config
        self.channels = config.fpn_hidden_size
        patch_px = _side(backbone.patch_stride)
        self.cell_px = patch_px * 2 ** (config.num_feature_levels - 1)
        # The levels are halved, and the positions of a window are laid side by side.
        levels = len(backbone.blocks_per_stage)
        self.step_px = lcm(patch_px * 2 ** (levels - 1), patch_px * backbone.window_size_per_stage[0])
        self.built_px = _side(backbone.image_size)

    def forward(self, prepared: Tensor) -> Tensor:
        features: Tensor = self.encoder(prepared).fpn_hidden_states[-1] + self.no_memory
        return features


class _Tokens(_Vision):
    """A ViT: the tokens of its patches after the last layer, on their grid; class and register tokens are dropped."""

    tap = "tokens"

    def __init__(self, model: Any, folder: Path) -> None:  # noqa: ANN401
        super().__init__()
        # Of a model of images and texts, the part for images.
        self.encoder = getattr(model, "vision_model", model)
        self.folder = folder
        config = self.encoder.config
        patch_px, hidden = _side(getattr(config, "patch_size", None)), getattr(config, "hidden_size", None)
        if patch_px is None or not isinstance(hidden, int):
            raise _no_tokens(folder, config.model_type, "its configuration names no patch_size and hidden_size")
        self.channels, self.cell_px, self.step_px = hidden, patch_px, patch_px
        self.built_px = _side(getattr(config, "image_size", None))
        self.before = sum(map(_tokens_of, self.encoder.named_parameters()))
        takes = inspect.signature(self.encoder.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}

    @torch.no_grad()
    def fit(self, input_px: int) -> None:
        """Encode one picture twice, side by side: whether a model answers with its patches is seen, not believed.

        One that hides patches at random, as a masked autoencoder does, answers differently.
        """
        kind = self.encoder.config.model_type
        picture = torch.linspace(-1, 1, input_px).expand(2, 3, input_px, input_px)
        self.encoder.eval()
        try:
            first, second = self(picture)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise _no_tokens(self.folder, kind, f"with an image of {input_px} px it stops: {told}") from error
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
            raise _no_tokens(self.folder, kind, "of two equal images it gives different features")

    def forward(self, prepared: Tensor) -> Tensor:
        cells = prepared.shape[-1] // self.cell_px
        tokens: Tensor = self.encoder(pixel_values=prepared, **self.options).last_hidden_state
        if tokens.ndim != 3 or tokens.shape[1] - self.before != cells * cells:
            told = (
                f"it answers with {tuple(tokens.shape[1:])}, and {cells} x {cells} patches of {self.cell_px} px and "
                f"{self.before} other tokens were expected"
            )
            raise _no_tokens(self.folder, self.encoder.config.model_type, told)
        return tokens[:, self.before :].transpose(1, 2).reshape(len(tokens), -1, cells, cells)


def _side(length: Any) -> Any:  # noqa: ANN401
    """Return a length that a configuration may give twice, once for each side; None where the sides differ."""
    if not isinstance(length, list | tuple):
        return length
    return length[0] if len(set(length)) == 1 else None


def _tokens_of(named: tuple[str, nn.Parameter]) -> int:
    """Return how many tokens a parameter puts before those of the patches."""
    name, parameter = named
    last = name.rpartition(".")[2]
    if last in _CLASS_TOKENS:
        return 1
    return int(parameter.shape[-2]) if last == _REGISTERS else 0


def _no_tokens(folder: Path, kind: str, told: str) -> WeightsError:
    return WeightsError(
        f"{folder}: a model of the type {kind!r} cannot be an encoder here: {told}. samkit takes SAM, SAM 2, SAM-HQ "
        f"and models whose last layer has a token for each patch of the image: DINOv2, DINOv3-ViT, ViT, DeiT, BEiT, "
        f"CLIP, SigLIP and their like."
    )


# -- what is in a folder -----------------------------------------------------------------------------


def _weights_in(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder, in order.

    Raises
    ------
    WeightsError
        When something is missing, there are pickles only, or other files than these decide the numbers.
    """
    if not folder.is_dir():
        message = f"{folder}: no such folder. An encoder of transformers is a folder with {_CONFIG} and {_SINGLE}."
        raise WeightsError(message)
    if not (folder / _CONFIG).is_file():
        message = f"{folder}: no {_CONFIG} in it, so it is no model of transformers. {_SINGLE} must lie beside it."
        raise WeightsError(message)
    if "transformers_weights" in _json_in(folder / _CONFIG) or (folder / _ADAPTERS).is_file():
        message = (
            f"{folder}: its numbers are not those of {_SINGLE} alone: {_CONFIG} names other weights, or {_ADAPTERS} "
            f"lies beside it. Merge them and write the whole model: model.save_pretrained(FOLDER)"
        )
        raise WeightsError(message)
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if (folder / _INDEX).is_file():
        weight_map = _json_in(folder / _INDEX).get("weight_map")
        parts = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, Mapping) else []
        missing = [part for part in parts if Path(part).name != part or not (folder / part).is_file()]
        if parts and not missing:
            return [folder / part for part in parts]
        message = f"{folder}: {_INDEX} names {', '.join(missing[:2]) or 'no file'}, which is not there. Fetch it again."
        raise WeightsError(message)
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    told = f"only {pickles[0]}, a pickle, which could run code and is not opened" if pickles else "no weights"
    message = (
        f"{folder}: {told}; {_SINGLE} is what samkit reads. Where you trust the source, write it once: "
        f"AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )
    raise WeightsError(message)


def _digest_of(folder: Path, files: list[Path]) -> str:
    """Return the sha256 of what decides the numbers: of what ``sha256sum`` prints for these files, in this order."""
    preprocessor = _preprocessor_file(folder)
    listed = [folder / _CONFIG, *([] if preprocessor is None else [preprocessor]), *files]
    lines = "".join(f"{file_sha256(file)}  {file.name}\n" for file in listed)
    return hashlib.sha256(lines.encode()).hexdigest()


def _preprocessor_file(folder: Path) -> Path | None:
    return next((folder / name for name in _PREPROCESSORS if (folder / name).is_file()), None)


def _json_in(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{file}: not JSON ({error}). Fetch the folder again."
        raise WeightsError(message) from error
    return content if isinstance(content, Mapping) else {}


def _vision_in(folder: Path, name: str) -> _Vision:
    """Load a model and keep what is run of it; refuse one whose numbers are not all in the folder.

    Raises
    ------
    WeightsError
        What `transformers` does not know, or cannot fill.
    """
    transformers = _transformers(name)
    from huggingface_hub.errors import StrictDataclassError

    kind = str(_json_in(folder / _CONFIG).get("model_type"))
    named = {**_SAM_CLASSES, **_SAM2_CLASSES}.get(kind)
    options = {} if named else {"trust_remote_code": False}
    try:
        with _quiet(transformers), seeded(0):
            model, told = getattr(transformers, named or "AutoModel").from_pretrained(
                str(folder),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    # What is raised for a folder that does not fit depends on where transformers stumbles.
    except (
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        SafetensorError,
        StrictDataclassError,
        TypeError,
        ValueError,
    ) as error:
        said = str(error).strip().splitlines()
        message = (
            f"{folder}: transformers {transformers.__version__} cannot load this model of the type {kind!r}: "
            f"{said[0] if said else type(error).__name__}"
        )
        raise WeightsError(message) from error
    # What is not run may be missing: decoders, the half for texts, what is made of the tokens.
    run = ("vision_encoder.", "no_memory_embedding") if named else ("",)
    if not named and hasattr(model, "vision_model"):
        run = ("vision_model.",)
    missing = [
        tensor
        for tensor in sorted(map(str, told["missing_keys"]))
        if tensor.startswith(run) and not _BEHIND_THE_TOKENS.search(tensor)
    ]
    if missing:
        message = (
            f"{folder}: {len(missing)} tensors that the model {kind!r} needs are not in its weights "
            f"({', '.join(missing[:2])}, ...). They belong to another model, or to a part of one."
        )
        raise WeightsError(message)
    if kind in _SAM_CLASSES:
        return _Sam(model)
    return _Sam2(model) if kind in _SAM2_CLASSES else _Tokens(model, folder)


# -- what a model expects ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Preprocessing:
    """A model's own preprocessing, without its crop."""

    rule: PixelRule
    #: The side of what it makes.
    input_px: int


def _preprocessing_in(folder: Path, name: str) -> _Preprocessing | None:
    """Read a model's own preprocessing; None where the folder has none.

    Raises
    ------
    UsageError
        When it does what samkit's rules cannot.
    """
    file = _preprocessor_file(folder)
    if file is None:
        return None
    transformers = _transformers(name)
    try:
        # What the file leaves out is the default of its class, which transformers knows.
        with _quiet(transformers):
            found = transformers.AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        return _preprocessing_of(found)
    except (AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        told = str(error).strip().splitlines()
        message = (
            f"{file}: samkit cannot follow this preprocessing ({told[0] if told else type(error).__name__}). Say what "
            f"the model expects: --pixels NAME --size PIXELS"
        )
        raise UsageError(message) from error


def _preprocessing_of(found: Any) -> _Preprocessing:  # noqa: ANN401
    """Turn an image processor of `transformers` into a rule.

    Raises
    ------
    ValueError
        When it cannot be one.
    """
    size = found.size
    if not found.do_resize or size is None:
        message = "it does not resize"
        raise ValueError(message)
    if getattr(found, "do_flip_channel_order", False):
        message = "blue, green, red"
        raise ValueError(message)
    if int(found.resample) not in _INTERPOLATIONS:
        message = f"resample {int(found.resample)}; 2 and 3 are known, bilinear and bicubic"
        raise ValueError(message)
    if size.height and size.width:
        resize, sides = "square", (size.height, size.width)
    else:
        # The shortest side to a length and then a crop: the aspect is kept, and without the crop the longest side is
        # what has to fit.
        side = size.longest_edge or size.shortest_edge
        resize, sides = "longest-side", (side, side)
    if getattr(found, "do_center_crop", False) and found.crop_size is not None:
        sides = (found.crop_size.height, found.crop_size.width)
    if len(set(sides)) != 1 or not sides[0]:
        message = f"it makes {sides[0]} x {sides[1]} pixels, which is no square"
        raise ValueError(message)
    mean, deviation = (_three(found.image_mean), _three(found.image_std)) if found.do_normalize else (_ZEROS, _ONES)
    # The package multiplies bytes; slices are in [0, 1] already.
    scale = 255 * found.rescale_factor if found.do_rescale else 255.0
    rule = PixelRule.spelled(
        interpolation=_INTERPOLATIONS[int(found.resample)],
        resize=resize,
        scale=round(scale, 9),
        mean=mean,
        deviation=deviation,
    )
    return _Preprocessing(rule=rule, input_px=int(sides[0]))


_ZEROS, _ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def _three(values: Any) -> tuple[float, float, float]:  # noqa: ANN401
    first, second, third = map(float, [values] * 3 if isinstance(values, int | float) else values)
    return first, second, third


def _default_px(vision: _Vision, own: _Preprocessing | None) -> int:
    """Return the size of the model's own preprocessing, else of its building, in whole patches.

    Raises
    ------
    UsageError
        When neither is known.
    """
    found = vision.built_px if own is None else own.input_px
    if found is None:
        message = "neither the model's configuration nor its preprocessing says how large its input is: --size PIXELS"
        raise UsageError(message)
    return max(1, found // vision.step_px) * vision.step_px


# -- the packages ------------------------------------------------------------------------------------


def _transformers(name: str) -> Any:  # noqa: ANN401
    """Import the package.

    Raises
    ------
    UsageError
        When it is not installed; the command that installs it is named.
    """
    from ...heads import sam_modules  # noqa: F401 - transformers imports torchvision, which this makes importable

    try:
        import transformers
    except ModuleNotFoundError as error:
        raise _not_installed(name, error) from error
    return transformers


def _not_installed(name: str, error: ModuleNotFoundError) -> UsageError:
    return UsageError(
        f"{name}: encoders of this kind are run by the package transformers, and it cannot be imported ({error}). "
        f"Install it: pip install 'samkit[transformers]'"
    )


def _fetched(source: str) -> Path:
    """Return the folder of a model of the hub: the copy on this machine, else what the hub hands out.

    Raises
    ------
    WeightsError
        When there is neither; the command that fetches it is named.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError as error:
        raise _not_installed(_TYPED + source, error) from error
    reason: Exception | None = None
    for only_here in (True, False):
        try:
            folder = Path(hub.snapshot_download(source, allow_patterns=_FETCHED, local_files_only=only_here))
            _weights_in(folder)  # the cache may hold a part of it
        except (HfHubHTTPError, HFValidationError, OSError, WeightsError) as error:
            reason = error
        else:
            return folder
    told = str(reason).strip().splitlines()
    message = (
        f"--encoder {_TYPED}{source}: no folder of that name, not in the cache of the Hugging Face hub "
        f"({hub.constants.HF_HUB_CACHE}), and not to be had from the hub ({told[0] if told else 'no reason given'}). "
        f"Where there is a network: hf download {source} --local-dir DIR, and then: --encoder {_TYPED}DIR"
    )
    raise WeightsError(message) from reason


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:  # noqa: ANN401
    """Keep the package's bars and notes off the terminal; what matters of them samkit says itself."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
