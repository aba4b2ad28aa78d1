"""Medical SAM Adapter begins as SAM, trains what it says, and answers alike on a cached prefix and live."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from contracts.head import FittedHeadContract, silent_parameters
from examples.tiny_sam import TINY, checkpoint, tensors
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch.nn import functional as F

from samkit.heads.adapters import DecoderAdapters, LayerAdapters
from samkit.heads.autosam import AutoSam
from samkit.heads.base import HeadContext
from samkit.heads.feeding import square_of
from samkit.heads.losses import IGNORED
from samkit.heads.med_sa import MedSa, MedSaLive, first_adapted
from samkit.heads.prompting import PointKind
from samkit.heads.sam_box import SamBox
from samkit.heads.seen import Chunks, ClassPrompts, FeaturesAndBoxes, Sees
from samkit.heads.two_way import two_way
from samkit.stages.encoders.sam import SAM_VIT_H
from samkit.store.errors import UsageError

CLASSES, GRID = 3, 16
ADAPTERS = {"space_adapters", "mlp_adapters", "prompt_adapters", "decoder_mlp_adapters", "embedding_adapters"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return TINY.load(checkpoint(tmp_path_factory.mktemp("weights"), tensors()))


@pytest.fixture(scope="module")
def tapped(tmp_path_factory):
    return TINY.load(checkpoint(tmp_path_factory.mktemp("weights"), tensors()), tap="block:1")


def context(encoder, **options):
    return HeadContext(
        input_shape=encoder.embedding_shape,
        class_count=CLASSES,
        mask_decoder=encoder.mask_decoder,
        live_encoder=encoder.live,
        block=encoder.recipe.block,
        options={name.replace("_", "-"): value for name, value in {"adapted_blocks": "last:2", **options}.items()},
    )


def slices(count=4):
    return torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(5))


def boxes(count=4):
    """The same box for each class of every slice, as prompts and as `SamBox` is told of it."""
    box = torch.tensor([[0.25, 0.125], [0.75, 0.5]]).expand(count, CLASSES - 1, 2, 2)
    kinds = torch.tensor([PointKind.FIRST_CORNER, PointKind.LAST_CORNER]).expand(count, CLASSES - 1, 2)
    return ClassPrompts(box, kinds, torch.zeros(count, GRID, GRID, dtype=torch.uint8))


def clicks(count=4):
    points = torch.rand(count, CLASSES - 1, 1, 2, generator=torch.Generator().manual_seed(6))
    kinds = torch.full((count, CLASSES - 1, 1), PointKind.INSIDE)
    reference = torch.randint(0, CLASSES, (count, GRID, GRID), generator=torch.Generator().manual_seed(7))
    return ClassPrompts(points, kinds, reference.to(torch.uint8))


def stirred(head):
    """Move the adapters away from nothing, as training does."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if "adapters" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return head


class ChunkContract(FittedHeadContract):
    """Of heads that see chunks: a chunk of two slices and chunks of one."""

    finer = 4
    prompted = False

    def context(self, *, seed=0):
        made = context(self.encoder, **({"prompt": "box:tight"} if self.prompted else {}))
        return replace(made, seed=seed)

    def seen(self, count=2, *, height=None, width=None):
        rows = torch.rand(count, *self.input_shape, generator=torch.Generator().manual_seed(7))
        return Chunks(rows, (1,) * count, boxes(count) if self.prompted else None)

    def test_logits_are_float32_and_as_fine_as_promised(self):  # at the encoder's own size alone
        logits = self.built()(self.seen())
        assert logits.shape == (2, CLASSES, GRID, GRID)
        assert logits.dtype == torch.float32

    def test_what_is_seen_may_be_float16_as_it_is_stored(self):
        head, seen = self.built(), self.seen()
        half = seen._replace(rows=seen.rows.half())
        assert torch.equal(head(half), head(half._replace(rows=half.rows.float())))

    def test_the_logits_of_a_slice_do_not_depend_on_its_batch_mates(self):
        head, seen = stirred(self.built()), self.seen(5)
        together = head(seen._replace(lengths=(2, 1, 2)))
        parts = [(slice(0, 2), (2,)), (slice(2, 3), (1,)), (slice(3, 5), (2,))]
        prompts = [
            None if seen.prompts is None else ClassPrompts(*(one[part] for one in seen.prompts)) for part, _ in parts
        ]
        alone = [
            head(Chunks(seen.rows[part], lengths, asked)) for (part, lengths), asked in zip(parts, prompts, strict=True)
        ]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)

    def test_the_order_of_the_batch_is_the_order_of_the_logits(self):
        head, seen = self.built(), self.seen(3)
        torch.testing.assert_close(
            head(seen._replace(rows=seen.rows.flip(0))), head(seen).flip(0), rtol=1e-3, atol=1e-4
        )

    def test_logits_depend_on_what_is_seen(self):
        logits = self.built()(self.seen())
        assert not torch.allclose(logits[0], logits[1])

    def test_every_trainable_parameter_receives_a_gradient(self):
        head = stirred(self.built()).train()
        logits = head(self.seen(4)._replace(lengths=(3, 1)))
        target = torch.randint(0, CLASSES, (4, GRID, GRID), generator=torch.Generator().manual_seed(1))
        F.cross_entropy(logits, target).backward()
        assert silent_parameters(head) == []


class TestMedSa(ChunkContract):
    head_class = MedSa
    encoder = TINY.load(None, tap="block:1")
    input_shape = encoder.embedding_shape
    trained_parts = frozenset({*ADAPTERS, "depth_adapters", "decoder"})


class TestMedSaPrompted(TestMedSa):
    prompted = True


class TestMedSaLive(ChunkContract):
    head_class = MedSaLive
    encoder = TINY.load(None)
    input_shape = (1, 64, 64)
    trained_parts = frozenset({*ADAPTERS, "depth_adapters", "decoder"})


@torch.no_grad()
def test_at_step_0_without_a_prompt_it_is_autosam_on_the_embedding(encoder, tapped):
    expected = AutoSam.build(context(encoder)).eval()(encoder(slices()))
    found = MedSa.build(context(tapped)).eval()(Chunks(tapped(slices()), (3, 1)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_at_step_0_with_boxes_it_is_sam_with_boxes(encoder, tapped):
    told = torch.tensor([0.25, 0.125, 0.75, 0.5]).expand(4, CLASSES - 1, 4)
    expected = SamBox.build(context(encoder)).eval()(FeaturesAndBoxes(encoder(slices()), told))
    found = MedSa.build(context(tapped, prompt="box:tight")).eval()(Chunks(tapped(slices()), (4,), boxes()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("sd_trans", ["on", "off"])
def test_on_a_cached_prefix_it_answers_as_live(encoder, tapped, sd_trans):
    cached = stirred(MedSa.build(context(tapped, sd_trans=sd_trans))).eval()
    live = stirred(MedSaLive.build(context(encoder, sd_trans=sd_trans))).eval()
    lengths = (3, 1) if sd_trans == "on" else (1, 1, 1, 1)
    squares = square_of(slices(), 64, encoder.recipe.resize)
    found = cached(Chunks(tapped(slices()), lengths))
    torch.testing.assert_close(found, live(Chunks(squares, lengths)), rtol=1e-4, atol=1e-4)


def test_a_step_on_a_cached_prefix_gives_the_gradients_of_a_live_one(encoder, tapped):
    cached, live = stirred(MedSa.build(context(tapped))).train(), stirred(MedSaLive.build(context(encoder))).train()
    target = torch.randint(0, CLASSES, (4, GRID, GRID), generator=torch.Generator().manual_seed(1))
    F.cross_entropy(cached(Chunks(tapped(slices()), (4,))), target).backward()
    F.cross_entropy(live(Chunks(square_of(slices(), 64, encoder.recipe.resize), (4,))), target).backward()
    mine, theirs = (
        {name: one.grad for name, one in head.named_parameters() if one.requires_grad} for head in (cached, live)
    )
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-5)


def by_the_equations(head, block, number, tokens, lengths):
    """A block with adapters, written out with the package's own modules: (B, h, w, C) tokens."""
    space, mlp = head.space_adapters[number], head.mlp_adapters[number]
    normed = block.norm1(tokens)
    side = tokens.shape[1]
    if block.window_size:
        windows, padded = window_partition(normed, block.window_size)
        attended = window_unpartition(block.attn(windows), block.window_size, padded, (side, side))
    else:
        attended = block.attn(normed)
    attended = attended + space.up(torch.relu(space.down(attended)))
    if number in head.depth_adapters:
        attended = attended + head.depth_adapters[number](
            torch.cat([through_slices(block.attn, part) for part in normed.split(list(lengths))])
        )
    tokens = tokens + attended
    normed = block.norm2(tokens)
    return tokens + block.mlp(normed) + 0.5 * mlp.up(torch.relu(mlp.down(normed)))


def through_slices(attention, chunk):
    """Every slice looks at every slice at each cell, each head by itself."""
    heads = attention.num_heads
    queries, keys, values = attention.qkv(chunk).unflatten(-1, (3, heads, -1)).unbind(dim=3)  # D, h, w, A, channels
    shares = torch.einsum("dhwac,ehwac->hwade", queries * attention.scale, keys).softmax(dim=-1)
    return attention.proj(torch.einsum("hwade,ehwac->dhwac", shares, values).flatten(-2))


@torch.no_grad()
@pytest.mark.parametrize("sd_trans", ["on", "off"])
def test_adapters_stand_where_the_paper_puts_them(tapped, sd_trans):
    """In a global block and in a windowed one, whose windows do not tile the grid."""
    head = stirred(MedSa.build(context(tapped, sd_trans=sd_trans))).eval()
    assert [bool(block.window_size) for block in head.tail.blocks.values()] == [False, True]
    rows, lengths = tapped(slices()), (3, 1)
    tokens = rows.permute(0, 2, 3, 1)
    for number, block in head.tail.blocks.items():
        tokens = by_the_equations(head, block, number, tokens, lengths)
    expected = head.tail.neck(tokens.permute(0, 3, 1, 2))
    found = head.tail(rows, head._block_adapters(), lengths)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("hyp", ["on", "off"])
def test_adapters_of_the_decoder_stand_where_the_paper_puts_them(tapped, hyp):
    """One layer, written out with the package's own attention, for one slice and the tokens of one prompt."""
    head = stirred(MedSa.build(context(tapped, prompt="box:tight", hyp=hyp))).eval()
    layer = head.decoder.mask_decoder.transformer.layers[1]
    prompt, mlp, picture = head.prompt_adapters[1], head.decoder_mlp_adapters[1], head.embedding_adapters[1]
    tokens, cells, place, said = (torch.randn(1, count, 256) for count in (6, 9, 9, 1))
    queries = layer.norm1(tokens + layer.self_attn(tokens + tokens, tokens + tokens, tokens))
    seen = layer.cross_attn_token_to_image(queries + tokens, cells + place, cells)
    seen = seen + prompt(seen[:, None], said[:, 0])[:, 0]
    queries = layer.norm2(queries + seen)
    queries = layer.norm3(queries + layer.mlp(queries) + 0.5 * mlp(queries))
    added = cells + layer.cross_attn_image_to_token(cells + place, queries + tokens, queries)
    expected = layer.norm4(added + picture(added))

    one = deepcopy(head.decoder.mask_decoder.transformer)
    one.layers = torch.nn.ModuleList([layer])
    told = DecoderAdapters([LayerAdapters(prompt, mlp, picture)], said[:, 0])
    _, found = two_way(one, cells, place[0], tokens[:, None], told)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_the_encoder_stays_what_it_was(tapped):
    head = MedSa.build(context(tapped)).train()
    before = {name: value.clone() for name, value in head.tail.state_dict().items()}
    optimiser = torch.optim.AdamW([one for one in head.parameters() if one.requires_grad], lr=0.1, weight_decay=0.1)
    head(Chunks(tapped(slices()), (4,))).sum().backward()
    optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in head.tail.state_dict().items())


@torch.no_grad()
def test_through_slices_a_slice_hears_of_the_others_of_its_chunk(tapped):
    head, rows = stirred(MedSa.build(context(tapped))).eval(), tapped(slices())
    together, apart = head(Chunks(rows, (4,))), head(Chunks(rows, (1, 1, 1, 1)))
    assert not torch.allclose(together, apart, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_without_attention_through_slices_it_does_not(tapped):
    head, rows = stirred(MedSa.build(context(tapped, sd_trans="off"))).eval(), tapped(slices())
    torch.testing.assert_close(head(Chunks(rows, (4,))), head(Chunks(rows, (1, 1, 1, 1))), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_adapters_of_the_prompt_hear_it(tapped):
    """The same prompt's own tokens, and other words for the adapters."""
    head, rows = (
        stirred(MedSa.build(context(tapped, prompt="box:tight"))).eval(),
        Chunks(tapped(slices()), (4,), boxes()),
    )
    plain = stirred(MedSa.build(context(tapped, prompt="box:tight", hyp="off"))).eval()
    from samkit.heads import prompting

    said = []
    for one in (head, plain):
        answers = [one(rows)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prompting, "_mean_of", lambda told, _kinds: torch.ones_like(told[:, 0]))
            answers.append(one(rows))
        said.append(torch.allclose(*answers, rtol=1e-4, atol=1e-5))
    assert said == [False, True]


@torch.no_grad()
def test_a_class_that_is_not_asked_for_is_never_the_answer(tapped):
    head = MedSa.build(context(tapped, prompt="box:tight")).eval()
    asked = boxes()
    kinds = asked.kinds.clone()
    kinds[:, 1] = PointKind.NOTHING
    kinds[2] = PointKind.NOTHING
    logits = head(Chunks(tapped(slices()), (4,), asked._replace(kinds=kinds)))
    answer = logits.argmax(dim=1)
    assert not (answer == 2).any()
    assert not answer[2].any()


def test_slices_that_show_nothing_give_no_gradient(tapped):
    head = stirred(MedSa.build(context(tapped, prompt="point:1"))).train()
    nothing = clicks()._replace(kinds=torch.full((4, CLASSES - 1, 1), PointKind.NOTHING))
    F.cross_entropy(head(Chunks(tapped(slices()), (4,), nothing)), torch.zeros(4, GRID, GRID).long()).backward()
    assert not any(one.grad is not None and one.grad.any() for one in head.parameters())


@torch.no_grad()
def test_no_correction_falls_beside_the_slice(tapped, monkeypatch):
    """A head that answers everywhere, on slices that fill the upper half of the square."""
    head = MedSa.build(context(tapped, prompt="clicks:3")).eval()
    asked = clicks()
    asked.reference[:, GRID // 2 :] = IGNORED
    clicked = []

    def answered(embeddings, prompts, previous=None, adapters=()):
        clicked.append(prompts.points[:, -1])
        return embeddings.new_ones(len(embeddings), 4, GRID, GRID), None

    monkeypatch.setattr(head.decoder, "forward", answered)
    head(Chunks(tapped(slices()), (4,), asked))
    assert all((points[:, 1] + 0.5 < 0.5).all() for points in clicked[1:])
    assert len(clicked) == 3


@torch.no_grad()
def test_corrections_repeat_and_change_the_answer(tapped):
    head = MedSa.build(context(tapped, prompt="clicks:3")).eval()
    once = MedSa.build(context(tapped, prompt="point:1")).eval()
    seen = Chunks(tapped(slices()), (4,), clicks())
    assert torch.equal(head(seen), head(seen))
    assert not torch.allclose(head(seen), once(seen))


def test_a_prompt_that_is_not_given_is_refused(tapped):
    with pytest.raises(UsageError, match="built for --prompt box:tight"):
        MedSa.build(context(tapped, prompt="box:tight"))(Chunks(tapped(slices()), (4,)))


def test_features_that_enter_a_later_block_are_refused_with_both_remedies():
    late = TINY.load(None, tap="block:2")
    with pytest.raises(UsageError, match=r"adapts the blocks 1 to 2, .* --tap block:1; or .* --adapted-blocks last:1"):
        MedSa.build(context(late))


def test_what_the_encoder_ends_with_is_refused_with_the_tap(encoder):
    with pytest.raises(UsageError, match=r"are what the encoder ends with.*samkit embed --tap block:1"):
        MedSa.build(context(encoder))


def test_features_that_enter_an_earlier_block_are_gone_on_from(encoder):
    early = TINY.load(None, tap="block:0")
    head = MedSa.build(context(early, adapted_blocks="last:1"))
    assert (list(head.tail.blocks), list(head.space_adapters)) == (["0", "1", "2"], ["2"])


def test_more_blocks_than_there_are_are_refused(tapped):
    with pytest.raises(UsageError, match=r"the encoder has 3 blocks. Give last:3 or fewer"):
        MedSa.build(context(tapped, adapted_blocks="last:4"))


def test_a_chunk_without_attention_through_slices_is_refused(tapped):
    with pytest.raises(UsageError, match=r"--chunk 4 .* Leave one of the two out"):
        MedSa.build(context(tapped, sd_trans="off", chunk="4"))


def test_all_blocks_are_adapted_live(encoder):
    head = MedSaLive.build(context(encoder, adapted_blocks="all"))
    assert list(head.space_adapters) == ["0", "1", "2"]


def test_a_prompt_needs_the_prompt_encoder(tapped):
    without = replace(tapped.mask_decoder, prompt_encoder={})
    with pytest.raises(UsageError, match="needs SAM's prompt encoder"):
        MedSa.build(replace(context(tapped, prompt="point:1"), mask_decoder=without))


def test_without_an_encoder_there_is_nothing_to_begin_from(tapped):
    with pytest.raises(UsageError, match="begins from an encoder"):
        MedSa.build(replace(context(tapped), live_encoder=None))


def test_by_a_sixteenth_the_adapters_of_vit_h_are_the_papers_13_million():
    """In all blocks and without SD-Trans: what the paper says is trained, 2 % of 636 M."""
    chosen = {"adapted_blocks": "all", "sd_trans": "off", "hyp": "on", "prompt": "none", "chunk": "auto"}
    with torch.device("meta"):
        shape = SAM_VIT_H.shape(1024)
        live = {"shape": shape.to_json(), "scale": 1, "mean": [0] * 3, "deviation": [1] * 3, "resize": "longest-side"}
        head = MedSaLive(encoder=live, class_count=2, mlp_width=2048, adapter_ratio="0.0625", **chosen)
    parts = head.parameters_by_part()
    adapters = parts["space_adapters"].trained + parts["mlp_adapters"].trained
    assert adapters == 64 * (2 * 1280 * 80 + 80 + 1280)
    assert adapters / parts["encoder"].frozen == pytest.approx(0.02, abs=0.001)
    # With the mask decoder and its adapters, which are trained too, it is more.
    assert head.parameter_count() > 1.3 * adapters


def test_the_last_blocks_are_counted_from_the_end():
    assert (first_adapted("last:1", 12), first_adapted("last:12", 12)) == (11, 0)


def test_they_see_chunks():
    assert (MedSa.sees, MedSaLive.sees) == (Sees.CHUNKS, Sees.CHUNKS_OF_SQUARES)
