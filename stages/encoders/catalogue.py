"""Published checkpoints: where each lies, and by which digest its bytes are known."""

from __future__ import annotations

from dataclasses import dataclass

#: What stands in the place of a checkpoint for numbers that come from a seed.
SEEDED = "seeded"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownWeights:
    """One published checkpoint."""

    #: What people type.
    name: str
    #: The encoder whose architecture it fills.
    encoder: str
    #: What its publisher calls it, and what a mirror has to.
    file_name: str
    #: The publisher's folder, without a slash at its end.
    folder_url: str
    #: For a first word on what it takes; the server's answer decides.
    about_bytes: int
    #: 64 hex digits; None where none is established.
    sha256: str | None = None
    #: 32 hex digits, where there is no sha256: it tells damage, and is weak against a forger.
    md5: str | None = None
    licence: str = "Apache-2.0"
    #: The rule of `pixels` that it was trained with; None for the encoder's own.
    pixels: str | None = None

    def __post_init__(self) -> None:
        if (self.sha256 is None) == (self.md5 is None):
            message = f"{self.name}: give the sha256 of its bytes, or their md5 where that is all there is."
            raise ValueError(message)

    @property
    def url(self) -> str:
        """Its official address."""
        return f"{self.folder_url}/{self.file_name}"

    @property
    def digest_kind(self) -> str:
        """``sha256`` or ``md5``."""
        return "md5" if self.sha256 is None else "sha256"

    @property
    def digest(self) -> str:
        """The pinned digest, hex digits."""
        return self.sha256 or self.md5 or ""


_META = "https://dl.fbaipublicfiles.com/segment_anything"

# Addresses: the READMEs of facebookresearch/segment-anything and bowang-lab/MedSAM. SAM's digests agree in several
# public registries, micro-sam's among them. Of MedSAM's file only the md5 that Zenodo shows is established.
KNOWN_WEIGHTS: dict[str, KnownWeights] = {
    known.name: known
    for known in (
        KnownWeights(
            name="sam_vit_b",
            encoder="sam_vit_b",
            file_name="sam_vit_b_01ec64.pth",
            folder_url=_META,
            about_bytes=375_000_000,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        KnownWeights(
            name="sam_vit_l",
            encoder="sam_vit_l",
            file_name="sam_vit_l_0b3195.pth",
            folder_url=_META,
            about_bytes=1_249_524_607,
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        KnownWeights(
            name="sam_vit_h",
            encoder="sam_vit_h",
            file_name="sam_vit_h_4b8939.pth",
            folder_url=_META,
            about_bytes=2_564_550_879,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
        KnownWeights(
            name="medsam_vit_b",
            encoder="sam_vit_b",
            file_name="medsam_vit_b.pth",
            folder_url="https://zenodo.org/records/10689643/files",
            about_bytes=375_000_000,  # the tensors of sam_vit_b
            md5="3bb6db55bd0c9ca30b61248bca72f8d6",
            pixels="medsam",
        ),
    )
}


def find_known(name: str) -> KnownWeights:
    """Return a published checkpoint by its name.

    Raises
    ------
    UsageError
        For an unknown name, with the nearest one.
    """
    from ...store.runs import check_name  # and zarr with it, which looking at the catalogue does without

    check_name("weights", name, list(KNOWN_WEIGHTS))
    return KNOWN_WEIGHTS[name]


def name_of(*, sha256: str, md5: str | None = None) -> str | None:
    """Return the name of the published checkpoint with these digests, None where it is nobody's known."""
    return next(
        (name for name, known in KNOWN_WEIGHTS.items() if known.digest in (sha256, md5)),
        None,
    )
