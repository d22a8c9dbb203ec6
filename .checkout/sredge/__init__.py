"""A checkout's `sredge`: the names of the wheel `sredge`, out of the folder runtime/; cli.py adds the workstation's commands."""

from typing import TYPE_CHECKING

from runtime import __all__ as __all__
from runtime import __getattr__ as __getattr__
from runtime import __version__ as __version__

if TYPE_CHECKING:
    from runtime import *  # noqa: F403
