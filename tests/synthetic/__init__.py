"""Small real files with known answers: what hospitals and challenges hand out, traps included, made by the tests.

Nothing here imports samkit. Everything is seeded: the same arguments give the same bytes. Values are indexed
(column, row, slice) after rescale, in float64; `affine` leads from there to RAS+ millimetres, while the makers take
lattices as DICOM has them, in LPS+ (`affine_lps`). Slices of an answer run along the normal of the orientation.

answers         what every maker returns: the files, the true values and affine, and what is to happen to them
phantom         a body with organs as Hounsfield units, and the masks of its organs
instances       one DICOM instance: identity, position, pixels, and how it is written (syntax, preamble)
series          one file a slice, a regular stack: intensities, orientations, file names, transfer syntaxes
irregular       tilt, gaps, duplicates, localizers, several grids in one series, too few slices
kinds           secondary capture, colour, palette, mosaic, radiograph, ultrasound
four_d          echoes, b-values, time points, phases: several volumes in one series
enhanced        one multi-frame file: functional groups per frame and shared, empty, shuffled, 4-D
codecs          any of these compressed, cut short, or corrupted
label_objects   DICOM-SEG and RTSTRUCT over a series
folders         many studies in one folder, DICOMDIR, reports and other objects, junk, blank UIDs
archives        zips: plain, nested, and hostile
private         known strings in every place of a header that may hold a string (DICOM, NIfTI)
ircadb          the tree of 3D-IRCADb-01
challenges      the trees of CHAOS, ACDC and Synapse/BTCV
catalogue       every single-folder maker by name, for tests that run over all of them
"""
