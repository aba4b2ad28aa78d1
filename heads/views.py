"""Views: named transforms of a slice in image space, and banks of them.

An encoder is not equivariant, so an augmented slice needs an embedding of its own: augmentation and a cache live
together as a *bank of views*, each (slice, view) a row. A view's text is its definition and stands in the row's key
(`store.keys.RowKey`), so the same text means the same pixels for ever; the grammar is in store/FORMAT.md, section 4.
One view indexes embedding, slice and label together: what `image_of` makes of a row's key, and `View.apply_to_label`.

Steps are joined by ``:`` and applied from left to right:

    turn      flip-rows, flip-columns, transpose, anti-transpose, rotate90, rotate180, rotate270: exact
    rotation  rotate+7-nearest, rotate-13-bilinear: 1 to 89 degrees about the centre, the shape is kept, zeros outside
    zoom      zoom0.80-bilinear, zoom1.25-nearest: so many times as large about the centre, likewise
    window    window1.10+0.05: value x 1.10 + 0.05, clipped to [0, 1]
    gamma     gamma0.80: value ^ 0.80

Rotations, by whatever name, are counter-clockwise as a slice is displayed (rows downwards, columns to the right).

Shapes: C channels; planes lie in the last two axes, (..., rows, columns).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..store.errors import InputError, UsageError
from ..store.keys import RowKey
from ..store.slices import SliceFinder
from .tiling import Tile

# Not "/", which joins the parts of a row's key, not ",", which joins views on the command line, and nothing that a
# shell makes something of.
_JOINED_BY = ":"
_ORDERS = {"nearest": 0, "bilinear": 1}
_LARGEST_DEGREES = 89
# Gamma and the factor of a window. Beyond ten times nothing is left of a slice.
_FACTOR_HUNDREDTHS = (10, 1000)
# Beyond, a sixteenth of a slice is left, or of the plane is filled by it.
_ZOOM_HUNDREDTHS = (25, 400)
_LARGEST_OFFSET_HUNDREDTHS = 100

_NUMBER = r"[0-9]{1,2}(?:\.[0-9]{1,2})?"
_ROTATION = re.compile(r"rotate(?P<degrees>[+-][0-9]{1,3})-(?P<interpolation>nearest|bilinear)")
_ZOOM = re.compile(rf"zoom(?P<factor>{_NUMBER})-(?P<interpolation>nearest|bilinear)")
_WINDOW = re.compile(rf"window(?P<factor>{_NUMBER})(?:(?P<sign>[+-])(?P<offset>{_NUMBER}))?")
_GAMMA = re.compile(rf"gamma(?P<exponent>{_NUMBER})")
# One word of each kind that has a number, for "did you mean".
_EXAMPLES = ("rotate+7-nearest", "rotate+7-bilinear", "zoom0.80-bilinear", "window1.10+0.05", "gamma0.80")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One of the eight ways to lay a rectangle on itself or on its transpose: a permutation of pixels.

    Rows and columns change places first, then their orders are reversed.
    """

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    @property
    def name(self) -> str:
        """The word for it."""
        return _NAMES[self]

    @property
    def mirrors(self) -> bool:
        """Whether it is a reflection: left and right of the anatomy change places."""
        return self.transposed ^ self.rows_reversed ^ self.columns_reversed

    def then(self, other: Turn) -> Turn:
        """Return the turn that is this one and afterwards the other."""
        rows, columns = self.rows_reversed, self.columns_reversed
        if other.transposed:
            rows, columns = columns, rows
        return Turn(
            transposed=self.transposed ^ other.transposed,
            rows_reversed=rows ^ other.rows_reversed,
            columns_reversed=columns ^ other.columns_reversed,
        )

    def apply(self, planes: NDArray[Any]) -> NDArray[Any]:
        """Return planes (..., rows, columns) turned; nothing is copied."""
        turned = planes.swapaxes(-1, -2) if self.transposed else planes
        if self.rows_reversed:
            turned = turned[..., ::-1, :]
        return turned[..., ::-1] if self.columns_reversed else turned


TURNS: Mapping[str, Turn] = {
    "identity": Turn(),
    "flip-rows": Turn(rows_reversed=True),
    "flip-columns": Turn(columns_reversed=True),
    "transpose": Turn(transposed=True),
    "anti-transpose": Turn(transposed=True, rows_reversed=True, columns_reversed=True),
    "rotate90": Turn(transposed=True, rows_reversed=True),
    "rotate180": Turn(rows_reversed=True, columns_reversed=True),
    "rotate270": Turn(transposed=True, columns_reversed=True),
}
_NAMES = {turn: name for name, turn in TURNS.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """A rotation about the centre of the plane, as ``scipy.ndimage.rotate(..., reshape=False)`` does it."""

    #: Counter-clockwise as displayed; -89 to 89, never 0.
    degrees: int
    #: "nearest" or "bilinear", of the image; labels are always taken from the nearest pixel.
    interpolation: str

    def __str__(self) -> str:
        return f"rotate{self.degrees:+d}-{self.interpolation}"

    def apply(self, planes: NDArray[Any], interpolation: str) -> NDArray[Any]:
        """Return planes (..., rows, columns) rotated, of the same shape and kind; zeros where there was nothing."""
        rotated = ndimage.rotate(
            _for_ndimage(planes), self.degrees, axes=(-2, -1), reshape=False, **_sampling(planes, interpolation)
        )
        return np.asarray(rotated.astype(planes.dtype, copy=False))


@dataclass(frozen=True, kw_only=True, slots=True)
class Zoom:
    """A change of size about the centre of the plane, whose shape is kept."""

    #: Above 100 the slice becomes larger, and what leaves the plane is cut off.
    factor_hundredths: int
    #: "nearest" or "bilinear", of the image; labels are always taken from the nearest pixel.
    interpolation: str

    def __str__(self) -> str:
        return f"zoom{_decimal(self.factor_hundredths)}-{self.interpolation}"

    def apply(self, planes: NDArray[Any], interpolation: str) -> NDArray[Any]:
        """Return planes (..., rows, columns) zoomed, of the same shape and kind; zeros where there was nothing."""
        if interpolation == "nearest":
            (row, inside_rows), (column, inside_columns) = map(self._nearest, planes.shape[-2:])
            gathered = planes[..., row[:, None], column]
            return np.where(inside_rows[:, None] & inside_columns, gathered, planes.dtype.type(0))
        step = 100 / self.factor_hundredths  # to the next pixel, in pixels of the plane
        steps = np.array([1.0] * (planes.ndim - 2) + [step, step])
        middle = (np.array(planes.shape) - 1) / 2
        zoomed = ndimage.affine_transform(
            _for_ndimage(planes), steps, offset=middle - steps * middle, **_sampling(planes, interpolation)
        )
        return np.asarray(zoomed.astype(planes.dtype, copy=False))

    def _nearest(self, length: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return for each pixel along a side the one that it is taken from, and whether there is one.

        In whole numbers, because many places lie on the border of two pixels, where rounding must not decide; the one
        nearer to the middle is taken: always the upper would shift labels against images by up to half a pixel.
        """
        whole = 2 * self.factor_hundredths
        from_middle = 2 * np.arange(length) - (length - 1)  # in half pixels
        place = (length - 1) * self.factor_hundredths + 100 * from_middle  # from the first pixel, place / whole pixels
        on_border = (place + self.factor_hundredths) % whole == 0
        index = (place + self.factor_hundredths) // whole - (on_border & (from_middle > 0))
        return np.clip(index, 0, length - 1), (place >= 0) & (place <= whole * (length - 1))


def _for_ndimage(planes: NDArray[Any]) -> NDArray[Any]:
    # It has no float16; every float16 is a float32, so nothing is rounded before the result is.
    return planes.astype(np.float32) if planes.dtype == np.float16 else planes


def _sampling(planes: NDArray[Any], interpolation: str) -> dict[str, Any]:
    """Return how ndimage reads between pixels, and what lies outside."""
    kind = _for_ndimage(planes[..., :0, :0]).dtype if interpolation == "nearest" else np.float64
    return {"output": kind, "order": _ORDERS[interpolation], "mode": "constant", "cval": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A linear change of the values, as another window of the intensities would make it, clipped to [0, 1]."""

    factor_hundredths: int
    offset_hundredths: int

    def __str__(self) -> str:
        sign = "-" if self.offset_hundredths < 0 else "+"
        return f"window{_decimal(self.factor_hundredths)}{sign}{_decimal(abs(self.offset_hundredths))}"

    def apply(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return values in [0, 1] changed, of the same kind."""
        # In whole hundredths: a float16 times a whole number is exact in float64, so only the division rounds and
        # every machine gives the same.
        changed = (image.astype(np.float64) * self.factor_hundredths + self.offset_hundredths) / 100
        return np.asarray(np.clip(changed, 0, 1).astype(image.dtype))


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One view; `parse` makes it from its text and ``str`` gives its canonical text, of which there is only one.

    Turn, rotation, zoom, window and gamma are applied in this order.
    """

    turn: Turn = TURNS["identity"]
    rotation: Rotation | None = None
    zoom: Zoom | None = None
    window: Window | None = None
    #: The exponent, or None.
    gamma_hundredths: int | None = None

    def __str__(self) -> str:
        steps = [] if self.turn == TURNS["identity"] else [self.turn.name]
        steps += [str(step) for step in (self.rotation, self.zoom, self.window) if step is not None]
        if self.gamma_hundredths is not None:
            steps.append(f"gamma{_decimal(self.gamma_hundredths)}")
        return _JOINED_BY.join(steps) or "identity"

    @classmethod
    def parse(cls, text: str) -> View:
        """Read a view from a text, canonical or not: ``flip-rows:flip-columns`` is ``rotate180``.

        Raises
        ------
        UsageError
            For an unknown word, with the nearest one; a number out of its range; steps in an order that has no name.
        """
        view = cls()
        for step in text.split(_JOINED_BY):
            view = view.then(_view_of_step(step))
        return view

    def then(self, other: View) -> View:
        """Return the view that is this one and afterwards the other.

        Turns go to the front past windows and gammas, which change each pixel by itself: the result is the same.

        Raises
        ------
        UsageError
            When that is no single turn, rotation, zoom, window and gamma in this order.
        """
        identity = TURNS["identity"]
        brightness = self.window is not None or self.gamma_hundredths is not None
        if (self.rotation is not None or self.zoom is not None) and other.turn != identity:
            turned_first = replace(self, turn=self.turn.then(other.turn))
            if self.rotation is not None and other.turn.mirrors:
                # Mirrored before instead, the plane is rotated in the other sense.
                turned_first = replace(turned_first, rotation=replace(self.rotation, degrees=-self.rotation.degrees))
            raise _no_name(self, other, f"Turn or mirror first: {turned_first}.")
        if other.rotation is not None and (self.rotation is not None or self.zoom is not None or brightness):
            raise _no_name(self, other, "Rotate once, and before the zoom and before the values are changed.")
        if other.zoom is not None and (self.zoom is not None or brightness):
            raise _no_name(self, other, "Zoom once, and before the values are changed.")
        if other.window is not None and brightness:
            raise _no_name(self, other, "Give one window, and before the gamma.")
        if other.gamma_hundredths is not None and self.gamma_hundredths is not None:
            raise _no_name(self, other, "Give one gamma.")
        return View(
            turn=self.turn.then(other.turn),
            rotation=self.rotation or other.rotation,
            zoom=self.zoom or other.zoom,
            window=self.window or other.window,
            gamma_hundredths=self.gamma_hundredths or other.gamma_hundredths,
        )

    @property
    def to_plane(self) -> NDArray[np.float64]:
        """What brings an offset from the middle of the view, (row, column), to that from the middle of the plane.

        (2, 2), with the offset to its left as a row vector. Orthogonal but for the factor of a zoom.
        """
        angle = np.deg2rad(0 if self.rotation is None else self.rotation.degrees)
        rotated = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        reversed_axes = np.diag(
            [-1.0 if each else 1.0 for each in (self.turn.rows_reversed, self.turn.columns_reversed)]
        )
        turned = rotated @ (reversed_axes[:, ::-1] if self.turn.transposed else reversed_axes)
        return turned if self.zoom is None else turned * (100 / self.zoom.factor_hundredths)

    @property
    def values_alone(self) -> View:
        """What is left of the view where the plane is moved otherwise: its window and gamma."""
        return replace(self, turn=TURNS["identity"], rotation=None, zoom=None)

    def plane_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the (rows, columns) of the view of a plane of (rows, columns): a transpose exchanges them."""
        return (columns, rows) if self.turn.transposed else (rows, columns)

    def apply_to_image(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the view of an image.

        Parameters
        ----------
        image
            (..., rows, columns) in [0, 1]; float16 as slices are stored, or another float kind.

        Returns
        -------
        ndarray
            The same kind, (..., *`plane_shape`), in C order. Every step rounds to that kind, so a view of several steps
            is bit by bit its steps one after the other. The identity gives the image itself.
        """
        changed = self.turn.apply(image)
        if self.rotation is not None:
            changed = self.rotation.apply(changed, self.rotation.interpolation)
        if self.zoom is not None:
            changed = self.zoom.apply(changed, self.zoom.interpolation)
        if self.window is not None:
            changed = self.window.apply(changed)
        if self.gamma_hundredths is not None:
            changed = np.power(changed.astype(np.float64), self.gamma_hundredths / 100).astype(image.dtype)
        return np.ascontiguousarray(changed)

    def apply_to_label(self, label: NDArray[Any]) -> NDArray[Any]:
        """Return the view of a label map: moved as the image is, always from the nearest pixel.

        What a rotation or a zoom brings in from outside the plane is 0, background, as the image is 0 there: SAM-LST's
        training does the same (arXiv 2306.12737, its ``random_rotate``), and air around a patient is labelled so.

        Parameters
        ----------
        label
            (..., rows, columns), any kind. By exact views also whatever else lies on the plane, such as logits.

        Returns
        -------
        ndarray
            The same kind, (..., *`plane_shape`), in C order.
        """
        changed = self.turn.apply(label)
        if self.rotation is not None:
            changed = self.rotation.apply(changed, "nearest")
        if self.zoom is not None:
            changed = self.zoom.apply(changed, "nearest")
        return np.ascontiguousarray(changed)


def image_of(slices: SliceFinder, key: RowKey) -> NDArray[np.float16]:
    """Return what the encoder is given for a row: the slice, cut to the key's tile, then in the key's view.

    Parameters
    ----------
    slices
        Where the slice's pixels are found, verified by their digest.
    key
        The row's.

    Returns
    -------
    ndarray
        (C, rows, columns), float16 in [0, 1], C order.
    """
    tile: NDArray[np.float16] = Tile.parse(key.tile).crop(slices.read(key))
    return View.parse(key.view).apply_to_image(tile)


# -- texts -----------------------------------------------------------------------------------------


def _view_of_step(step: str) -> View:
    """Return the view of a single step; of one that changes nothing, such as ``gamma1``, the identity."""
    if step in TURNS:
        return View(turn=TURNS[step])
    if found := _ROTATION.fullmatch(step):
        degrees = int(found["degrees"])
        if abs(degrees) > _LARGEST_DEGREES:
            raise _unusable(
                step,
                f"a rotation keeps the shape of the plane and is by 1 to {_LARGEST_DEGREES} degrees either way. Quarter"
                f" turns are rotate90, rotate180, rotate270, and may come before it: rotate90:rotate+7-nearest",
            )
        return View(rotation=Rotation(degrees=degrees, interpolation=found["interpolation"]) if degrees else None)
    if found := _ZOOM.fullmatch(step):
        zoom = Zoom(
            factor_hundredths=_factor(step, found["factor"], _ZOOM_HUNDREDTHS), interpolation=found["interpolation"]
        )
        return View(zoom=zoom if zoom.factor_hundredths != 100 else None)
    if found := _WINDOW.fullmatch(step):
        factor, offset = _factor(step, found["factor"], _FACTOR_HUNDREDTHS), _hundredths(found["offset"] or "0")
        if offset > _LARGEST_OFFSET_HUNDREDTHS:
            raise _unusable(step, f"what is added to values in [0, 1] is at most {_LARGEST_OFFSET_HUNDREDTHS / 100:g}")
        window = Window(factor_hundredths=factor, offset_hundredths=-offset if found["sign"] == "-" else offset)
        changes = window != Window(factor_hundredths=100, offset_hundredths=0)
        return View(window=window if changes else None)
    if found := _GAMMA.fullmatch(step):
        exponent = _factor(step, found["exponent"], _FACTOR_HUNDREDTHS)
        return View(gamma_hundredths=exponent if exponent != 100 else None)
    raise _unusable(step, _hint(step))


def _hint(step: str) -> str:
    """Say how something is written that nearly was."""
    if re.match(r"rotate *[+-]?[0-9]", step):
        return (
            "a rotation says its sense and its interpolation: rotate+7-nearest or rotate-7-bilinear; quarter turns are "
            "rotate90, rotate180 and rotate270"
        )
    if step.startswith("zoom"):
        return "a zoom says its interpolation: zoom0.80-bilinear or zoom1.25-nearest, with at most two decimals"
    if step.startswith("gamma"):
        return "a gamma is written gamma0.80, with at most two decimals"
    if step.startswith("window"):
        return "a window is written window1.10+0.05 or window0.90-0.05, with at most two decimals"
    near = get_close_matches(step, [*TURNS, *BANKS, *_EXAMPLES], n=1, cutoff=0.6)
    known = (
        f"There are: {', '.join((*TURNS, *_EXAMPLES))}, in steps joined by {_JOINED_BY!r}; and the banks "
        f"{', '.join(BANKS)}"
    )
    return f"did you mean {near[0]!r}? {known}" if near else known


def _factor(step: str, text: str, between: tuple[int, int]) -> int:
    """Return a number in hundredths, both bounds included."""
    smallest, largest = between
    value = _hundredths(text)
    if not smallest <= value <= largest:
        raise _unusable(step, f"{text} is not between {_decimal(smallest)} and {_decimal(largest)}")
    return value


def _hundredths(text: str) -> int:
    whole, _, part = text.partition(".")
    return 100 * int(whole) + int(part.ljust(2, "0"))


def _decimal(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def _unusable(step: str, why: str) -> UsageError:
    return UsageError(f"the view {step!r}: {why}.")


def _no_name(first: View, second: View, remedy: str) -> UsageError:
    return UsageError(
        f"{first} and then {second} has no name: a view is a turn or mirror, then a rotation, then a zoom, then a "
        f"window, then a gamma, each at most once. {remedy}"
    )


# -- banks -----------------------------------------------------------------------------------------

_REFLECTIONS = ("identity", "flip-rows", "flip-columns", "transpose", "anti-transpose")
# SAM-LST's augmentation, arXiv 2306.12737: a quarter turn and then always a flip, which makes one of the four
# reflections; or a rotation by randint(-20, 20) degrees, 20 not included, by nearest pixel; or nothing.
_SAM_LST_DEGREES = (*range(-20, 0), *range(1, 20))

#: The banks that have a name. Each begins with the identity.
BANKS: Mapping[str, tuple[View, ...]] = {
    name: tuple(map(View.parse, texts))
    for name, texts in {
        "none": ("identity",),
        "reflections": _REFLECTIONS,
        "dihedral": tuple(TURNS),
        "sam-lst": (*_REFLECTIONS, *(f"rotate{degrees:+d}-nearest" for degrees in _SAM_LST_DEGREES)),
    }.items()
}


def words_for(views: Iterable[str]) -> str:
    """Return what to type for some views, which may be in any order and begin with the identity or not.

    >>> words_for(["flip-rows", "transpose", "flip-columns", "anti-transpose"])
    'reflections'
    >>> words_for(["identity", "gamma0.80", "flip-rows"])
    'gamma0.80,flip-rows'
    """
    wanted = dict.fromkeys(map(View.parse, views)) | {View(): None}
    named = [name for name, bank in BANKS.items() if set(bank) == wanted.keys()]
    return named[0] if named else ",".join(str(view) for view in wanted if view != View())


@dataclass(frozen=True, kw_only=True, slots=True)
class Bank:
    """Views of which each slice has a row."""

    #: What the user typed: a bank's name, a file, or a list.
    name: str
    #: The identity first, each once.
    views: tuple[View, ...]
    #: What was named although it was there already, as sentences for the user.
    repeated: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The canonical texts, as they stand in the rows' keys."""
        return tuple(map(str, self.views))

    @classmethod
    def parse(cls, text: str) -> Bank:
        """Read a bank from its name, or from views and banks joined by commas: ``reflections,gamma0.80``.

        Raises
        ------
        UsageError
            For an unknown word, with the nearest one.
        """
        return cls._of(text, (("", item.strip()) for item in text.split(",")))

    @classmethod
    def of_file(cls, name: str, content: str) -> Bank:
        """Read a bank from a file's text: a view or a bank a line, ``#`` before comments.

        Parameters
        ----------
        name
            The file, for messages.
        content
            Its text.

        Raises
        ------
        InputError
            For an unknown word, with its line and the nearest word; or when no view is there.
        """
        lines = [
            (f"{name}, line {number}: ", text)
            for number, line in enumerate(content.splitlines(), start=1)
            if (text := line.partition("#")[0].strip())
        ]
        if not lines:
            message = (
                f"{name} names no view. Write one a line, such as flip-rows or rotate+7-nearest, # before comments."
            )
            raise InputError(message)
        try:
            return cls._of(name, lines)
        except UsageError as error:
            raise InputError(str(error)) from error

    @classmethod
    def _of(cls, name: str, items: Iterable[tuple[str, str]]) -> Bank:
        """Make a bank of (where it stands, text)."""
        found: dict[View, None] = {}
        repeated = []
        for place, text in items:
            try:
                views = BANKS.get(text) or (View.parse(text),)
            except UsageError as error:
                message = f"{place}{error}"
                raise UsageError(message) from error
            if all(view in found for view in views):
                canonical = text if text in BANKS else str(views[0])
                told = "is there already" if canonical == text else f"is {canonical}, which is there already"
                repeated.append(f"{place}{text} {told}")
            found.update(dict.fromkeys(views))
        return cls(name=name, views=tuple({View(): None} | found), repeated=tuple(repeated))
