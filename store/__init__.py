"""store: what is on disk, how it is named, when it is complete.

places       where a workspace lies: the one face of a directory and of an object store
local        a directory: hidden name, flush, rename
remote       an object store: one PUT
documents    JSON that tells when it was changed
arrays       how an array is laid out
keys         digests, row keys, recipes: what makes two embeddings the same embedding
workspace    one dataset: its volumes, label names, splits, recipes and runs
index        which volumes there are: a log that two ingests can write to
slices       the pixels and labels of a volume
journal      which rows exist: one record a shard, written after its data
embeddings   the rows themselves
shards       how rows lie in the file of a shard, and how they are read fast
precision    how a row's numbers are kept: float16, float32, int8
prefetch     reading ahead, in a thread, as far as memory allows
splits       which subjects are for training, which for the score
runs         one trained head each, with everything that made it
pretrained   what a network learned from slices without labels
verify       whether all of it is what was written
lease        one process at a time takes things away
garbage      gc: what nothing needs any more
provenance   the code version, for every record
errors       what samkit says when something is refused

FORMAT.md is the specification. Nothing here knows torch, DICOM or NIfTI.
"""
