"""The errors of samkit, as a tree.

SamkitError                    exit code 1
  UsageError                   the command as typed cannot be done             exit code 2
  InputError                   the files given cannot be used
    UnreadableFile             no reader could make sense of it
    UnusableVoxels             not finite, constant, or of the wrong kind
    WindowNeeded               a CT whose intensity window was not named
    GeometryMismatch           image and label do not lie on the same grid
    UnusableLabel              values that are not whole, or have no name
    IdentifierTaken            another source already has this volume id
  WeightsError                 a checkpoint is missing, damaged, unsafe or of another model
  StoreError                   what is on disk is not what was asked for
    NotAWorkspace              no workspace there (or another dataset's)
    NewerFormat                written by a later samkit
    DamagedStore               a checksum does not match, a file is torn
    DiskFull                   less is free than will be written
    WorkspaceBusy              another process is taking things away from it
    MissingEmbeddings          rows that no journal record lists               also a KeyError
    MissingRun                 no such run, or several                         also a KeyError
  DeviceError                  the device asked for is not there
  FitDiverged                  training a head left the finite numbers

A message names the place, both values, the likely cause and what to type next.
The command line prints it without a traceback and leaves with ``exit_code``.
"""

from __future__ import annotations

__all__ = [
    "DamagedStore",
    "DeviceError",
    "DiskFull",
    "FitDiverged",
    "GeometryMismatch",
    "IdentifierTaken",
    "InputError",
    "MissingEmbeddings",
    "MissingRun",
    "NewerFormat",
    "NotAWorkspace",
    "SamkitError",
    "SamkitWarning",
    "StoreError",
    "UnreadableFile",
    "UnusableLabel",
    "UnusableVoxels",
    "UsageError",
    "WeightsError",
    "WindowNeeded",
    "WorkspaceBusy",
]


class SamkitError(Exception):
    """Any refusal of samkit; the message is meant for the person at the keyboard."""

    exit_code = 1


class UsageError(SamkitError):
    """The command as typed cannot be done: an unknown name, an impossible number."""

    exit_code = 2


class InputError(SamkitError):
    """The files given cannot be used."""


class UnreadableFile(InputError):
    """A file is missing, truncated, or of a kind that no reader takes."""


class UnusableVoxels(InputError):
    """The image holds values that cannot be normalised: not finite, constant, 4-D, RGB."""


class WindowNeeded(InputError):
    """A CT needs an intensity window, and none was named."""


class GeometryMismatch(InputError):
    """Image and label do not lie on the same grid."""


class UnusableLabel(InputError):
    """A label map has values that are not whole numbers, or that have no name."""


class IdentifierTaken(InputError):
    """A volume id already belongs to another source."""


class WeightsError(SamkitError):
    """A checkpoint is missing, damaged, unsafe, or belongs to another model."""


class StoreError(SamkitError):
    """What is on disk is not what was asked for."""


class NotAWorkspace(StoreError):
    """There is no workspace at that place."""


class NewerFormat(StoreError):
    """The workspace was written by a later samkit."""


class DamagedStore(StoreError):
    """A checksum does not match or a file is torn; wrong numbers are never returned."""


class DiskFull(StoreError):
    """The disk has less room than a command is going to need."""


class WorkspaceBusy(StoreError):
    """Another process holds the workspace's lease."""


class MissingEmbeddings(StoreError, KeyError):
    """Embedding rows that no journal record lists."""

    __str__ = Exception.__str__  # KeyError would print the message in quotes


class MissingRun(StoreError, KeyError):
    """No run of that name, or more than one."""

    __str__ = Exception.__str__


class DeviceError(SamkitError):
    """The device asked for is not there, or too small."""


class FitDiverged(SamkitError):
    """The loss of a head is not finite; a lower learning rate is the usual cure."""


class SamkitWarning(UserWarning):
    """Something the user should know that does not stop the work."""
