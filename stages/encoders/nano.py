"""The embedded encoder: SAM's modules at a small size, for a laptop, a demo and a test.

256-pixel input, patches of 16, an embedding of 256 x 16 x 16: a sixteenth of SAM's cells and about a
hundredth of its arithmetic. Until trained weights ship with samkit its numbers come from a seed, and
everything it prints says "untrained": it shows that the machinery works, not what SAM can do.
"""

from __future__ import annotations

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
)
