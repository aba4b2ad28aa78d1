"""stages: what happens to the data, in this order.

ingest   raw files           -> slices (geometry, labels, where they came from)
embed    slices              -> embeddings/<encoder>--<recipe>/
train    embeddings + labels -> runs/<run>/
predict  embeddings + a run  -> masks on the source's own grid
report   runs                -> report/
verify   embeddings          -> how far stored rows are from what the encoder answers

readers/    the only code that knows file formats
encoders/   the only code that knows encoders
synthesis/  procedural anatomy for the demo and the tests

The stages do not import each other: they meet on disk.
"""
