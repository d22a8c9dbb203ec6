"""The one error tree: each error says what failed, and its hint says what to type next.

Exit codes: 2 where the user can mend it (`UserError`), 1 where the pipeline failed (`PipelineError`).
Anything else that escapes is a bug and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable

PROGRAM = f"python -m {__package__}"
"""What a hint calls this package's command line: `python -m sredge` on a device, `python -m runtime` in a checkout."""


class SredgeError(Exception):
    """Base of every error a user can reach.

    Args:
        message: what failed, got what, expected what.
        hint: the next thing to do or type; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Cross processes whatever the subclass's own arguments are."""
        return _restore, (type(self), str(self), self.hint)


class PipelineError(SredgeError):
    """A stage ran and its result did not hold up (parity, an invalid graph)."""


class UserError(SredgeError):
    """Something in what was asked or given can be mended by whoever asked."""

    exit_code = 2


class UnknownNameError(UserError):
    """A name that no registry has; lists the ones it has."""

    def __init__(self, kind: str, name: str, *, valid: Iterable[str], hint: str = "") -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(valid)}", hint=hint)


class BundleError(UserError):
    """A bundle that is missing, incomplete, edited or of a newer schema."""


class WeightsError(UserError):
    """A checkpoint that cannot be had, read or fitted to its network."""


class DatasetError(UserError):
    """Images that are missing, or that must not be used for this."""


class ImageError(UserError):
    """A file or array that is not a picture this project can read or write."""


class BackendError(UserError):
    """A backend that is absent or cannot run this graph."""


def _restore(kind: type[SredgeError], message: str, hint: str) -> SredgeError:
    error = kind.__new__(kind)
    SredgeError.__init__(error, message, hint=hint)
    return error
