"""store: what is on disk, how it is named, when it is complete.

files        how a file or a folder appears whole or not at all
arrays       how an array is laid out
keys         digests, row keys, recipes: what makes two embeddings the same embedding
workspace    one dataset: its volumes, label names, splits, recipes and runs
slices       the pixels and labels of a volume
journal      which rows exist: one record a shard, written after its data
embeddings   the rows themselves
shards       how rows lie in the file of a shard, and how they are read fast
splits       which subjects are for training, which for the score
runs         one trained head each, with everything that made it
verify       whether all of it is what was written
provenance   code version and peak memory, for every record
errors       what samkit says when something is refused

FORMAT.md is the specification. Nothing here knows torch, DICOM or NIfTI.
"""
