"""readers: from the files people have to arrays and an affine. The only code that knows file formats.

base          what a reader gives back (`Scan`, `LabelMap`), what it must remember (`SourceGrid`), and the dispatch
layouts       a folder         -> the volumes in it, their labels, and what was refused (`SourceFiles`)
layout_rules  one function a dataset layout: which image goes with which label
naming        a file           -> an id and a subject that give no patient away
dataset_json  dataset.json     -> label names and channels (Medical Segmentation Decathlon, nnU-Net)
nifti, hdf5, dicom             one format each: files -> `Scan`, `LabelMap`; nifti also writes masks back
slice_stack   slice positions  -> order and affine of a DICOM series, or why it is no regular stack
geometry      an affine        -> display orientation, exactly invertible; do image and label fit?
intensity     voxels           -> one window or one pair of percentiles a volume -> float16 in [0, 1]

Conventions of the whole folder: arrays of a file are indexed (i, j, k) in the file's own order; an affine is a
float64 4x4 matrix from those indices to millimetres in RAS+ (x to the patient's right, y to anterior, z to superior);
arrays in display orientation are (slices, rows, columns). Nothing is resampled and nothing is guessed in silence.
"""
