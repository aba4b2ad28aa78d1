"""Procedural anatomy: subjects that nobody has to download, consent to or anonymise.

atlas     where organs lie, and how far subjects depart from it
anatomy   seed             -> Phantom: an axial abdominal MR with its label map
scanner   tissue fractions -> what a scanner makes of them: signal, bias field, noise
files     Phantom          -> real NIfTI and DICOM files, the same anatomy in world space

shapes    random solids, sliced: subjects of scenes that are nobody's anatomy
looks     an anatomy and a scanner -> an image
pictures  a stream of both, batch after batch: what the embedded encoder is trained on

Arrays of the first four are (slices, rows, columns) in display orientation: slices inferior to superior, rows anterior
to posterior, columns patient-right to left; those of the others (..., rows, columns). Everything follows from an
integer seed, to rounding on any machine.
"""
