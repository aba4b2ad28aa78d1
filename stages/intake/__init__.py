"""intake: from one source to one volume: what `ingest` is made of, and what other processes do for it.

job       what the user chooses, and what goes to whoever reads a source: `IngestOptions`, `IngestJob`, `IngestTask`
labels    which labels a dataset has, and the label map of one volume on the grid of its image
volume    one source -> its slices and its record, or why it is refused
changes   what is new about a volume that is there already
"""
