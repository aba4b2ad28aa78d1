"""stages: what happens to the data, in this order.

ingest   raw files           -> slices (geometry, labels, where they came from)
check    labels              -> what survives of them on the encoder's grid
embed    slices              -> embeddings/<encoder>--<recipe>/
pretrain slices without labels -> pretrained/<id>/, for the baseline that begins from one
train    embeddings + labels -> runs/<run>/
predict  embeddings + a run  -> masks on the source's own grid
         (mask_files: where masks go, which formats fit their sources, and what they must never take the place of)
report   runs                -> report/
conventions  runs            -> scores by a paper's own rules
verify   embeddings          -> how far stored rows are from what the encoder answers

intake/     one source -> one volume: what `ingest` is made of
reporting/  tables, plots and pictures: what `report` is made of
training/   what a run will be, and what its head begins from: what `train` is made of
readers/    the only code that knows file formats
encoders/   the only code that knows encoders
synthesis/  drawn anatomy: for the demo, the tests, and the training of `nano`

The stages do not import each other: they meet on disk.
"""
