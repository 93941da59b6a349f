"""The errors a user can meet. Each message names the input, what was found, what was expected, and what to do."""

from __future__ import annotations

from typing import NamedTuple


class Said(NamedTuple):
    """The parts of an error's message; `remedy` is empty where it names none."""

    about: str
    found: str
    remedy: str


class MukiError(Exception):
    """Something in the input cannot be used. The command line prints it as one clear line and exits with code 2.

    A message is written `input: what was found; what to do`, or `input: what was found. Choose one: …`.
    """

    def said(self) -> Said:
        """The message in its parts."""
        about, _, rest = str(self).replace(". Choose one: ", "; choose one: ").partition(": ")
        found, _, remedy = rest.partition("; ")
        return Said(about, found, remedy)


class ConfigError(MukiError):
    """The settings are wrong: unknown keys, wrong types, impossible combinations."""


class TextsError(MukiError):
    """A text source cannot be read, or holds nothing that can be used."""


class MissingColumnError(TextsError):
    """A row of a text source lacks a column that was asked for.

    Attributes:
        column: its name.
    """

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


class LabelError(MukiError):
    """Label names are missing, ambiguous, or do not fit together."""


class TeacherError(MukiError):
    """A teacher cannot be loaded, is not a single-label classifier, or gives unusable outputs."""


class DropoutError(TeacherError):
    """Monte-Carlo dropout was asked for, but the teacher's passes do not differ."""


class StudentError(MukiError):
    """The student's starting point cannot be loaded or trained."""


class NoHiddenStatesError(StudentError):
    """The student's model is no encoder: nothing is broken, but there is no neutral view of the texts in it."""


class RunFolderError(MukiError):
    """The run folder lacks what this stage needs."""


class StaleError(RunFolderError):
    """What lies in the run folder is of other settings, scores or texts: an earlier stage has to be run again."""


class OutputTakenError(RunFolderError):
    """The output holds something else, which is left alone."""


def first_line(error: BaseException, message: str = "") -> str:
    """What an error says, cut to one line: `message` if given, else its own words, else the name of its class."""
    return ((message or str(error)).strip().splitlines() or [type(error).__name__])[0]
