"""Find networks from outside this package: `my_package.my_net:NETWORK`, and those that installed packages announce.

A package announces a network in its pyproject.toml, under the name that the command line then takes:

    [project.entry-points."sredge.networks"]
    mynet = "my_package.my_net:NETWORK"
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from export.models.network import Network
from runtime.errors import UserError

GROUP = "sredge.networks"
_GUIDE = "deploy_docs/add-a-network.md shows one"


def announced_names() -> tuple[str, ...]:
    """Names of the networks that installed packages announce."""
    return tuple(sorted(entry.name for entry in entry_points(group=GROUP)))


def find_outside(name: str) -> Network | None:
    """Return the network `name`: a `module:ATTRIBUTE`, or announced by an installed package; None where it is neither.

    Modules are looked for in the current folder too.

    Raises:
        UserError: there is no such module, or what it holds under that name is no `Network`.
    """
    if ":" in name:
        return _load(EntryPoint(name=name, value=name, group=GROUP))
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return _load(entry)
    return None


def _load(entry: EntryPoint) -> Network:
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it; the console script has not
        sys.path.append(here)
    module, _, attribute = entry.value.partition(":")
    if not (module and attribute) or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise UserError(f"{entry.value!r} names no network, expected module:ATTRIBUTE", hint="my_package.my_net:NETWORK")
    try:
        found = entry.load()
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{module} needs {error.name}, which is not installed", hint=f"pip install {error.name}") from error
        raise UserError(
            f"there is no module {error.name} in {here} or among the installed packages", hint=_from_where(module)
        ) from error
    except AttributeError as error:
        if attribute.partition(".")[0] in vars(sys.modules.get(module, object)):
            raise
        raise UserError(f"{module} has no {attribute}; its networks: {_networks_in(module)}", hint=_GUIDE) from error
    if not isinstance(found, Network):
        raise UserError(f"{entry.value} is {type(found).__name__}, expected a Network that builds the module", hint=_GUIDE)
    return found


def _from_where(module: str) -> str:
    return f"run it in the folder that holds {module.partition('.')[0]}, or install its project with pip"


def _networks_in(module: str) -> str:
    held = vars(sys.modules[module]) if module in sys.modules else {}
    return ", ".join(name for name, value in held.items() if isinstance(value, Network)) or "none"
