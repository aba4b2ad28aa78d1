"""Encoders of the Hugging Face hub: the package's own numbers, from folders that are read and never run."""

import hashlib
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from contracts.encoder import EncoderContract
from examples import tiny_transformers as folders
from examples.tiny_sam import TINY, checkpoint
from safetensors.torch import load_file, save_file

from samkit.heads.base import HeadContext, find_head
from samkit.stages.encoders.base import find_encoder, load_encoder, load_recipe, weights_named_by
from samkit.stages.encoders.pixels import prepare
from samkit.stages.encoders.transformers_models import TransformersModel
from samkit.store.errors import UsageError, WeightsError

transformers = pytest.importorskip("transformers", reason="needs the extra samkit[transformers]")

MAKERS = {
    "dinov2": folders.dinov2_folder,
    "dinov3": folders.dinov3_folder,
    "vit": folders.vit_folder,
    "siglip": folders.siglip_folder,
    "sam": folders.sam_folder,
    "sam-hq": folders.sam_hq_folder,
    "sam2": folders.sam2_folder,
}
EVERY_KIND = pytest.mark.parametrize("kind", MAKERS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders by kind, each made once and never changed."""
    there = {}

    def folder(kind):
        if kind not in there:
            there[kind] = MAKERS[kind](tmp_path_factory.mktemp("models") / f"{kind}-tiny")
        return there[kind]

    return folder


@pytest.fixture
def own(made, tmp_path):
    """A folder of a test's own, to be changed."""

    def folder(kind):
        return shutil.copytree(made(kind), tmp_path / f"{kind}-tiny")

    return folder


def images(count=2, channels=3, rows=50, columns=64):
    return torch.rand(count, channels, rows, columns, generator=torch.Generator().manual_seed(rows))


def loaded(folder, **options):
    return find_encoder(f"hf:{folder}").load(None, **options)


def package_model(folder, kind="AutoModel"):
    return getattr(transformers, kind).from_pretrained(str(folder)).eval()


class FromAFolder(EncoderContract):
    kind: str

    @pytest.fixture(autouse=True)
    def own_folder(self, made):
        self.folder = made(self.kind)

    def load(self, **options):
        return loaded(self.folder, **options)


class TestDinov2(FromAFolder):
    kind = "dinov2"


class TestSamHq(FromAFolder):
    kind = "sam-hq"


class TestSam2(FromAFolder):
    """SAM 2 halves its cells of 4 pixels three times: sizes are multiples of 32, cells of its embedding 16 pixels."""

    kind = "sam2"
    other_size = 96
    patch_px = 32

    @pytest.mark.parametrize("factor", [1, 2, 3, 5])
    def test_every_multiple_of_the_patch_is_a_size(self, factor):
        encoder = self.load(size=32 * factor)
        assert tuple(encoder(self.images(1)).shape[1:]) == encoder.embedding_shape
        assert encoder.embedding_shape[1:] == (2 * factor, 2 * factor)

    @pytest.mark.parametrize(("size", "nearest"), [(50, 64), (48, 64), (47, 32), (16, 32), (0, 32), (-32, 32)])
    def test_another_size_is_refused_with_the_nearest(self, size, nearest):
        with pytest.raises(UsageError, match=rf"--size {size}: .*Try --size {nearest}\."):
            self.load(size=size)

    @pytest.mark.parametrize(
        ("changed", "fields"),
        [
            ({"size": 96}, 1),
            ({"precision": "bfloat16"}, 1),
            ({"pixel_normalisation": "sam-exact"}, 2),  # which keeps the aspect, as SAM 2 does not
            ({"storage_precision": "float32"}, 1),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_what_changes_the_numbers_changes_the_recipe(self, changed, fields):
        before, after = self.load().recipe, self.load(**changed).recipe
        assert before.id != after.id
        assert len(before.differences(after)) == fields


# The numbers -----------------------------------------------------------------------------------------------------


def test_sam_through_transformers_is_sam_through_samkit(made, tmp_path):
    tensors = load_file(made("sam") / "model.safetensors")
    file = checkpoint(tmp_path, {under_sams_name(name): tensor for name, tensor in tensors.items()})
    for size in (64, 48, 112):
        here = TINY.load(file, size=size, pixel_normalisation="sam-exact")
        there = loaded(made("sam"), size=size, pixel_normalisation="sam-exact")
        expected, features = here(images()), there(images())
        assert features.shape == expected.shape == (2, 256, size // 16, size // 16)
        assert (features - expected).norm() < 1e-5 * expected.norm()


def under_sams_name(name):
    """The `segment-anything` package's name of a tensor of SAM's image encoder."""
    for theirs, ours in {
        "vision_encoder.": "image_encoder.",
        "patch_embed.projection": "patch_embed.proj",
        ".layers.": ".blocks.",
        "neck.conv1": "neck.0",
        "neck.layer_norm1": "neck.1",
        "neck.conv2": "neck.2",
        "neck.layer_norm2": "neck.3",
        "layer_norm": "norm",
    }.items():
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize(("kind", "backbone"), [("dinov2", "Dinov2Backbone"), ("dinov3", "DINOv3ViTBackbone")])
@pytest.mark.parametrize("size", [64, 96])
def test_features_of_dino_are_the_packages_own_feature_map(made, kind, backbone, size):
    encoder = loaded(made(kind), size=size)
    with torch.no_grad():
        (expected,) = package_model(made(kind), backbone)(encoder.prepare(images())).feature_maps
    assert expected.shape == (2, 48, size // 16, size // 16)
    torch.testing.assert_close(encoder(images()), expected)


@pytest.mark.parametrize(("kind", "classes"), [("vit", 1), ("siglip", 0)])
@pytest.mark.parametrize("size", [64, 80])
def test_features_of_a_vit_are_its_tokens_row_by_row(made, kind, classes, size):
    encoder = loaded(made(kind), size=size)
    model = package_model(made(kind))
    with torch.no_grad():
        part = getattr(model, "vision_model", model)
        tokens = part(encoder.prepare(images()), interpolate_pos_encoding=True).last_hidden_state
    features = encoder(images())
    cells = size // 16
    for row, column in np.ndindex(cells, cells):
        torch.testing.assert_close(features[:, :, row, column], tokens[:, classes + row * cells + column])


def test_features_of_sam_hq_are_its_image_embedding(made):
    encoder = loaded(made("sam-hq"))
    expected, _ = package_model(made("sam-hq"), "SamHQModel").get_image_embeddings(encoder.prepare(images()))
    torch.testing.assert_close(encoder(images()), expected)


def test_features_of_sam_2_are_what_its_predictor_calls_the_image_embedding(made):
    encoder = loaded(made("sam2"))
    *finer, expected = package_model(made("sam2"), "Sam2Model").get_image_embeddings(encoder.prepare(images()))
    assert expected.shape == (2, 256, 4, 4)
    assert [tuple(level.shape[1:]) for level in finer] == [(32, 16, 16), (64, 8, 8)]
    torch.testing.assert_close(encoder(images()), expected)


def test_the_published_sam_2_which_are_for_video_are_taken(own):
    folder = own("sam2")
    expected = loaded(folder)(images())
    folders.rewrite_json(folder / "config.json", model_type="sam2_video", architectures=["Sam2VideoModel"])
    assert torch.equal(loaded(folder)(images()), expected)


@EVERY_KIND
def test_each_kind_is_loaded_at_its_own_size_with_the_name_of_its_output(made, kind):
    encoder = loaded(made(kind))
    assert (encoder.recipe.input_px, encoder.embedding_shape[1:]) == (64, (4, 4))
    assert find_encoder(f"hf:{made(kind)}").default_px == 64
    assert encoder.recipe.tap == {"sam": "neck", "sam-hq": "neck", "sam2": "image-embed"}.get(kind, "tokens")
    assert (encoder.trained, encoder.mask_decoder, encoder.kernel_paths) == (True, None, ("transformers",))


def test_rows_of_another_forward_pass_are_refused(made):
    encoder = loaded(made("vit"))
    with pytest.raises(UsageError, match="'samkit-1'"):
        encoder.encode(encoder.prepare(images()), "samkit-1")


@pytest.mark.parametrize("shape", [(384, 16, 16), (48, 4, 4), (256, 2, 2)])
def test_the_linear_head_takes_such_features(shape):
    head = find_head("linear").build(HeadContext(input_shape=shape, class_count=4))
    assert head(torch.rand(2, *shape)).shape == (2, 4, 4 * shape[1], 4 * shape[2])


# What the models expect ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "dinov2"])
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (100, 80), (33, 57), (200, 190)])
def test_slices_are_prepared_as_the_packages_own_processor_does(made, kind, rows, columns):
    assert difference_from_the_processor(made(kind), rows, columns) < GREY_VALUES


@pytest.mark.parametrize("side", [40, 64, 200])
def test_a_model_that_crops_is_followed_but_for_its_crop(made, side):
    uncropped = {"do_center_crop": False, "size": {"shortest_edge": 64}}
    assert difference_from_the_processor(made("dinov2"), side, side, **uncropped) < GREY_VALUES


# The processor works on bytes and rounds after rows and after columns; deviations are 0.22 and more.
GREY_VALUES = 1.6 / 255 / 0.22


def difference_from_the_processor(folder, rows, columns, **options):
    as_bytes = (images(rows=rows, columns=columns) * 255).round().byte()
    processor = transformers.AutoImageProcessor.from_pretrained(str(folder))
    expected = processor(list(as_bytes), return_tensors="pt", **options)["pixel_values"]
    assert expected.std() > 0.1
    return (loaded(folder).prepare(as_bytes / 255) - expected).abs().max()


def test_a_slice_is_never_cropped(made):
    encoder = loaded(made("dinov2"))
    black = torch.zeros(1, 1, 40, 80)
    for row, column in [(0, 0), (0, 79), (39, 0), (39, 79)]:
        marked = black.clone()
        marked[..., row, column] = 1
        assert not torch.equal(encoder.prepare(marked), encoder.prepare(black))
    assert not encoder.prepare(black)[..., 32:, :].any()  # the aspect is kept, the rest is padding


def test_the_recipe_spells_out_what_the_model_expects(made):
    recipe = loaded(made("dinov2")).recipe
    assert recipe.resize == "longest-side"
    assert recipe.pixel_normalisation == (
        "bicubic;longest-side;scale=1;mean=0.485,0.456,0.406;deviation=0.229,0.224,0.225"
    )
    assert loaded(made("sam2")).recipe.resize == "square"


@pytest.mark.parametrize(
    ("content", "scale"),
    [({"rescale_factor": 1 / 127.5}, 2), ({"do_rescale": False}, 255), ({"do_normalize": False}, 1)],
)
def test_other_scales_of_values_are_followed(own, content, scale):
    folder = own("vit")
    folders.rewrite_json(folder / "preprocessor_config.json", **content)
    white = loaded(folder).prepare(torch.ones(1, 1, 64, 64))
    expected = scale if "do_normalize" in content else (scale - 0.5) / 0.5
    torch.testing.assert_close(white, torch.full_like(white, expected))


def test_a_rule_that_is_asked_for_goes_before_the_models_own(made):
    encoder = loaded(made("vit"), pixel_normalisation="medsam", size=48)
    expected = prepare(images(), input_px=48, pixel_normalisation="medsam")
    assert torch.equal(encoder.prepare(images()), expected)
    assert (encoder.recipe.resize, encoder.recipe.pixel_normalisation) == ("square", "medsam")


def test_without_its_preprocessing_a_model_is_refused_unless_a_rule_is_named(own):
    folder = own("vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"no preprocessor_config\.json.*--pixels NAME"):
        loaded(folder)
    assert loaded(folder, pixel_normalisation="sam").recipe.input_px == 64  # what it was built for


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"resample": 1}, "resample 1"),
        ({"size": {"height": 64, "width": 32}}, "64 x 32"),
        ({"do_resize": False}, "does not resize"),
        ({"image_processor_type": "NobodysImageProcessor"}, "Nobody|Unrecognized"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(own, content, told):
    folder = own("vit")
    folders.rewrite_json(folder / "preprocessor_config.json", **content)
    with pytest.raises(UsageError, match=rf"(?s)({told}).*--pixels NAME"):
        loaded(folder)


def test_a_size_that_is_no_multiple_of_the_patch_is_rounded_down_where_the_model_asks_for_it(own):
    folder = own("vit")
    folders.rewrite_json(folder / "preprocessor_config.json", size={"height": 78, "width": 78})
    assert loaded(folder).recipe.input_px == 64


# Names and digests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("hf:/data/dinov2-small", "hf-dinov2-small"),
        ("hf:/data/dinov2-small/", "hf-dinov2-small"),
        ("hf:facebook/sam2.1-hiera-tiny", "hf-sam2.1-hiera-tiny"),
        ("hf:my models/Dino  (v2)", "hf-Dino-v2"),
        ("hf:a--b", "hf-a-b"),
        ("hf-dinov2-small", "hf-dinov2-small"),
    ],
)
def test_a_name_becomes_one_that_can_be_a_folders(typed, name):
    model = find_encoder(typed)
    assert model.name == name
    assert "--" not in model.name
    assert find_encoder(model.name).name == name


@pytest.mark.parametrize("typed", ["hf:", "hf:/", "hf:...", "hf-", "hf-..", "hf-../elsewhere", "hf-a--b", "hf-[a]*"])
def test_a_name_that_says_nothing_is_refused(typed):
    with pytest.raises(UsageError, match="hf:FOLDER"):
        find_encoder(typed)


def test_the_folder_one_is_in_has_a_name(made, monkeypatch):
    monkeypatch.chdir(made("vit"))
    assert find_encoder("hf:.").name == "hf-vit-tiny"


@EVERY_KIND
def test_a_worker_finds_the_encoder_of_a_recipe_by_its_name_and_the_folder(made, kind):
    encoder = loaded(made(kind), storage_precision="float32", size=96)
    again = load_recipe(encoder.recipe, made(kind), "cpu")
    assert again.recipe == encoder.recipe
    assert torch.equal(again(images()), encoder(images()))


def test_the_folder_that_a_name_points_to_is_told(made):
    assert weights_named_by(f"hf:{made('vit')}") == made("vit")
    assert weights_named_by("hf-vit-tiny") is None
    assert weights_named_by("sam_vit_b") is None


def test_the_front_door_loads_a_folder_and_says_nothing_of_a_seed(made, capfd):
    encoder = load_encoder(f"hf:{made('dinov2')}", size=48)  # a warning of samkit's would be an error
    assert encoder(images()).shape == (2, 48, 3, 3)
    assert capfd.readouterr() == ("", "")


def test_the_digest_is_that_of_what_sha256sum_prints(made):
    files = ("config.json", "preprocessor_config.json", "model.safetensors")
    printed = "".join(f"{hashlib.sha256((made('vit') / file).read_bytes()).hexdigest()}  {file}\n" for file in files)
    assert loaded(made("vit")).recipe.weights_sha256 == hashlib.sha256(printed.encode()).hexdigest()


@pytest.mark.parametrize("changed", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_whatever_decides_the_numbers_is_in_the_digest(own, changed):
    folder = own("vit")
    before = loaded(folder).recipe.weights_sha256
    if changed.endswith(".json"):
        folders.rewrite_json(folder / changed, note="of no effect, and other bytes all the same")
    else:
        tensors = load_file(folder / changed)
        tensors["embeddings.cls_token"] += 1
        save_file(tensors, folder / changed, {"format": "pt"})
    assert loaded(folder).recipe.weights_sha256 != before


def test_weights_in_several_files_are_the_same_model_and_all_in_the_digest(made, tmp_path):
    folder = tmp_path / "vit-tiny"
    package_model(made("vit")).save_pretrained(folder, max_shard_size="40KB")
    shutil.copy(made("vit") / "preprocessor_config.json", folder)
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    encoder = loaded(folder)
    assert torch.equal(encoder(images()), loaded(made("vit"))(images()))
    parts[-1].unlink()
    with pytest.raises(WeightsError, match=parts[-1].name):
        loaded(folder)


# Folders that are refused ----------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no folder is there"):
        loaded(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="no such folder"):
        find_encoder("hf-nowhere").load(tmp_path / "nowhere")


def test_a_name_alone_has_no_weights():
    with pytest.raises(WeightsError, match="--encoder hf:FOLDER"):
        find_encoder("hf-dinov2-small").load(None)


def test_a_checkpoint_instead_of_a_folder_is_refused(made):
    with pytest.raises(WeightsError, match=r"no such folder.*config\.json"):
        find_encoder("hf-vit-tiny").load(made("vit") / "model.safetensors")


def test_a_folder_without_a_config_is_refused(own):
    folder = own("vit")
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"no config\.json"):
        loaded(folder)


def test_weights_that_a_configuration_names_elsewhere_are_refused(own):
    folder = own("dinov2")
    folders.rewrite_json(folder / "config.json", transformers_weights="other.safetensors")
    with pytest.raises(WeightsError, match="names other weights"):
        loaded(folder)


def test_adapters_beside_a_model_are_refused(own):
    folder = own("dinov2")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="Merge them and write the whole model"):
        loaded(folder)


def test_a_pickle_is_not_opened(own):
    folder = own("vit")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin, a pickle"):
        loaded(folder)


def test_code_in_the_folder_is_not_run(own):
    folder = own("vit")
    # The package would copy it elsewhere and import it there.
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(folder / 'ran')!r}).touch()\n")
    auto = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    folders.rewrite_json(folder / "config.json", model_type="of-their-own", auto_map=auto)
    with pytest.raises(WeightsError, match="of-their-own"):
        loaded(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_truncated_weights_are_refused(own, kept):
    file = own("vit") / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(WeightsError, match="cannot load"):
        loaded(file.parent)


def test_a_config_that_is_no_json_is_refused(own):
    folder = own("vit")
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json: not JSON"):
        loaded(folder)


@EVERY_KIND
def test_a_tensor_that_is_missing_is_not_made_up(own, kind):
    file = own(kind) / "model.safetensors"
    tensors = load_file(file)
    run = {"siglip": "vision_model.", "sam": "vision_encoder.", "sam-hq": "vision_encoder.", "sam2": "vision_encoder."}
    layers = [
        name for name in tensors if name.startswith(run.get(kind, "")) and re.search(r"(layers?|blocks)\.1\.", name)
    ]
    del tensors[layers[0]]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(WeightsError, match="1 tensors that the model"):
        loaded(file.parent)


def test_what_samkit_does_not_run_may_be_missing(own):
    for kind, unused in {"sam": "mask_decoder.", "vit": "pooler.", "siglip": "text_model."}.items():
        file = own(kind) / "model.safetensors"
        expected = loaded(file.parent)(images())
        tensors = load_file(file)
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)}
        assert len(kept) < len(tensors)
        save_file(kept, file, {"format": "pt"})
        before = torch.random.get_rng_state()  # the package draws numbers for what is missing
        assert torch.equal(loaded(file.parent)(images()), expected)
        assert torch.equal(torch.random.get_rng_state(), before)


def without_tokens(kind, folder):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = {
        "convnext": lambda: transformers.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[4, 4, 8, 8]),
        "vit_mae": lambda: transformers.ViTMAEConfig(**sizes, image_size=64, patch_size=16),
        "yolos": lambda: transformers.YolosConfig(**sizes, image_size=[64, 64], patch_size=16),
        "bert": lambda: transformers.BertConfig(**sizes, vocab_size=8),
    }[kind]()
    transformers.AutoModel.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["convnext", "vit_mae", "yolos", "bert"])
def test_a_model_without_a_token_for_each_patch_is_refused(tmp_path, kind):
    without_tokens(kind, tmp_path)
    with pytest.raises(WeightsError, match=rf"type '{kind}' cannot be an encoder here.*SAM 2, SAM-HQ"):
        find_encoder("hf-x").load(tmp_path, pixel_normalisation="sam", size=64)


def test_a_masked_autoencoder_that_hides_nothing_still_shuffles_and_is_refused(tmp_path):
    without_tokens("vit_mae", tmp_path)
    folders.rewrite_json(tmp_path / "config.json", mask_ratio=0.0)
    with pytest.raises(WeightsError, match="of two equal images"):
        find_encoder("hf-x").load(tmp_path, pixel_normalisation="sam", size=64)


# The hub, and the extra ------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_model_in_the_hubs_cache_is_found_by_its_name(made, hub_cache):
    kept = hub_cache / "models--somebody--vit-tiny"
    shutil.copytree(made("vit"), kept / "snapshots" / ("0" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    encoder = find_encoder("hf:somebody/vit-tiny").load(None)
    assert encoder.recipe == loaded(made("vit")).recipe  # wherever the folder lies


def test_a_model_that_cannot_be_had_is_refused_with_the_command_that_fetches_it(hub_cache):
    with pytest.raises(WeightsError, match="hf download somebody/vit-tiny --local-dir DIR"):
        find_encoder("hf:somebody/vit-tiny").load(None)


def test_half_a_model_in_the_cache_is_refused_too(made, hub_cache):
    kept = hub_cache / "models--somebody--vit-tiny"
    shutil.copytree(made("vit"), kept / "snapshots" / ("0" * 40), ignore=shutil.ignore_patterns("*.safetensors"))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    with pytest.raises(WeightsError, match=r"no weights.*hf download somebody/vit-tiny"):
        find_encoder("hf:somebody/vit-tiny").load(None)


def test_without_the_extra_the_command_that_installs_it_is_named(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'samkit\[transformers\]'"):
        loaded(made("vit"))


def test_a_model_is_known_by_its_prefix_alone():
    assert [name for name in ("hf:x", "hf-x", "hfx", "sam_vit_b") if TransformersModel.is_named(name)] == [
        "hf:x",
        "hf-x",
    ]
