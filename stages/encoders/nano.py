"""The embedded encoder: SAM's modules at a small size, for a laptop, a demo and a test.

256-pixel input, patches of 16, an embedding of 256 x 16 x 16: a sixteenth of SAM's cells and a five-hundredth of
ViT-B's arithmetic. Its weights come with samkit; they were trained by `train_nano` on drawn pictures alone,
and nano.md is their card. For results there is SAM.
"""

from __future__ import annotations

from pathlib import Path

from .sam import SamModel

# Windows of 8 tile the 16 x 16 grid without padding; SAM's 14 would pad it to 28.
NANO = SamModel(
    name="nano",
    width=192,
    depth=6,
    attention_heads=3,
    global_blocks=(2, 5),
    window=8,
    default_px=256,
    # With it all weights, in float16, are just below 12 MB.
    decoder_mlp_width=448,
    own_weights=Path(__file__).with_name("nano.safetensors"),
)
