"""readers: from the files people have to arrays and an affine. The only code that knows file formats.

base          what a reader gives back (`Scan`, `LabelMap`, `Structures`), what it must remember, and the dispatch
layouts/      a folder         -> the volumes in it, their labels, and what was refused (`SourceFiles`)
folders       a folder         -> the folders under it, links followed
archives      a .zip, or a folder that holds some -> a tree of files, unpacked without harm
naming        a file           -> an id and a subject that give no patient away
dataset_json  dataset.json     -> label names and channels (Medical Segmentation Decathlon, nnU-Net)

DICOM
dicom_headers what is read of a header, and nothing more
dicom_series  headers          -> which files make one volume each, and why the others do not
dicom_volumes slices of one grid -> the one volume of several that was chosen (echoes, b-values, moments)
slice_stack   slice positions  -> order and affine of a series, or why it is no regular stack
dicom         a series         -> `Scan`
dicom_seg, rtstruct            segmentations and contours -> masks on the grid of their image
label_planes  what these two share: tolerances, nearest planes, names that are unique
masks         labels of one mask a structure or one picture a slice
packed_masks  what all of these give back: masks as bits

other formats, each files -> `Scan`, `LabelMap`
nifti, hdf5, itk (NRRD, MetaImage), picture (PNG, JPEG, TIFF)

what is made of them
geometry      an affine        -> display orientation, exactly invertible; a label on the grid of its image
labels        ``--labels``     -> which voxels belong to which class
windows       ``--window``     -> CT windows, by name and by numbers
intensity     voxels           -> windows or percentiles a volume -> float16 in [0, 1]
histogram     voxels           -> exact percentiles, without a second copy of them

and back
seg_writer    a label map      -> a DICOM segmentation that names its source
mask_writer   a label map      -> NIfTI, NRRD, DICOM-SEG or PNG, on the grid of its source
index_space   a sheared grid   -> what the name of its mask says, and the affine beside it

Conventions of the whole folder: arrays of a file are indexed (i, j, k) in the file's own order; an affine is a
float64 4x4 matrix from those indices to millimetres in RAS+ (x to the patient's right, y to anterior, z to superior);
arrays in display orientation are (slices, rows, columns). Nothing is resampled and nothing is guessed in silence.
"""
