"""heads: small networks on frozen features, and how they are judged.

base       what a head is, what it is built from, how one is loaded
seen       what one is given: features, slices, chunks of them, prompts
autosam    SAM's mask decoder without prompts
finetuned  the same with its encoder trained too, which no cache serves
cnn        3x3 convolutions, lean or as published
hybrid     a small U-Net of the slice, its bottom joined by the features
ladder     SAM-LST: a CNN on the slice, gated into the embedding
linear     a light up-convolution
probe      one weighted sum of the features a class
ridge      the best linear head for squared errors, solved at once
prototype  the floor: the nearest class mean, nothing trained
med_sa     Medical SAM Adapter: the encoder's last blocks live on a cached prefix, with adapters
sam_box    SAM itself, prompted with boxes of the reference: a bound, not trained
unet       the baseline without an encoder: trained from nothing on the slices
simclr     the same baseline, which has learned from slices without labels before
dataset    embedded slices as a torch Dataset, for loops of one's own
feeding    features and labels of some volumes, from memory or streamed
patches    the same for heads that see slices: augmented patches
chunks     the same for heads that look through slices, with prompts made from labels
classes    label values and class indices
tiling     parts of a large plane, and how predictions are put together from them
views      named transforms of a slice and its label, banks of them; what the encoder is given for a row
frame      where a slice lies in the encoder's square: labels in, logits out
losses     cross-entropy and soft Dice
sampling   splits and draws of labelled subjects
recipes    how heads are fitted: budgets, rates, losses; the papers' settings by name
fitting    the training loop, its schedule, early stopping
inference  a trained head on a whole volume
metrics    Dice, IoU, HD95, ASSD, accuracy of one volume
conventions  papers' rules for Dice and HD95, for comparison with their tables
comparison bootstrap intervals, and paired differences of heads
averages   many volumes, many draws: means in the order that is fair
sam_modules   the segment-anything package's parts, importable beside any torch
sam_blocks    the blocks of its image encoder, faster; attention among cells and through slices
live_encoder  SAM's image encoder, or the end of it, as a part of a head that is trained
adapters      what Medical SAM Adapter trains beside its layers
two_way       SAM's two-way transformer, asked for all classes of a slice at once
upscaling     SAM's up-scaling, cell by cell
prompting     SAM's mask decoder, prompted with points, boxes and earlier masks, many images at once
prompt_rules  clicks, corrections and boxes, made from masks as somebody would give them

Nothing here reads a file, or loads a checkpoint.
"""
