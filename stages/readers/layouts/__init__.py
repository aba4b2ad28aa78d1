"""From a folder (or a file) to the volumes in it: which layout it is, what each volume is called, what was refused.

    layout                          told by                                   ids          subject
    3D-IRCADb                       PATIENT_DICOM, MASKS_DICOM                folder       the id
    CHAOS                           DICOM_anon, Ground                        MR_1_T2SPIR  MR_1
    ACDC                            patientNNN with Info.cfg                  stem         patientNNN
    Synapse multi-organ (BTCV)      imgNNNN, labelNNNN                        stem         the id
    medical segmentation decathlon  imagesTr, labelsTr, dataset.json          stem         the id
    nnU-Net raw                     the same, with _0000, _0001 channels      stem         the id
    BIDS                            sub-*, derivatives                        stem         sub-XX
    TotalSegmentator                s0011/ct, s0011/segmentations             folder       the id
    h5 volumes of ACDC, Synapse     patientNNN_frameNN, caseNNNN in .h5       stem         the patient, the case
    h5 volumes                      .h5, .hdf5                                hashed       the same, hashed
    images and labels               images, labels (or masks)                 hashed       the same, hashed
    DICOM series                    files that start as DICOM does            hashed       PatientID or study, hashed
    NIfTI, NRRD, MetaImage files    .nii, .nii.gz; .nrrd, .nhdr; .mha, .mhd   hashed       the same, hashed
    pictures                        .png, .jpg, .tif, .bmp                    hashed       the same, hashed
    single file                     one of the above                          hashed       as above

Folder names are ids only where they are the dataset's own (3Dircadb1.7, s0011, 1 to 99 of CHAOS), and hashed
elsewhere. Stems are ids in layouts whose names their authors chose for publication; a note says so where they may be
anybody's. Two frames of a patient (_frame01, _frame12) are of one subject, hashed or not. Everything a user should know
of is a source, a refused row or a note: nothing is left out in silence except hidden files, files of other kinds, and
derivatives that are no labels.

base              what layouts speak: `LayoutOptions`, `Tree`, `Candidate`, `Pairing`
files             files of all formats but DICOM: kind, size, which volume of a 4-D one
channels          loose files with a channel each (_0000, _0001)
endings           labels by ending, and one label where there are several
dicom             series, and the DICOM-SEG and RTSTRUCT that belong to them
stems, bids, acdc, synapse, ircadb, chaos, totalsegmentator, h5, loose     one layout (or family) each
patients          where several subjects may be one patient, for a note
find              ids, subjects, the table                 -> `find_sources`
corrections       labels for volumes that are there already -> `find_labels`
"""

from .base import LayoutOptions
from .corrections import FoundLabels, KnownVolume, find_labels
from .files import header_reads
from .find import Found, IdMapRow, Triaged, find_sources

__all__ = [
    "Found",
    "FoundLabels",
    "IdMapRow",
    "KnownVolume",
    "LayoutOptions",
    "Triaged",
    "find_labels",
    "find_sources",
    "header_reads",
]
