"""Super-resolution networks as other people make them: small ones of our own, defined after the papers.

What sredge promises of a stranger's network is held on these: `python -m tests.architectures` prints the table of it.
"""

from export.models import Network
from tests.architectures import (
    carn_m,
    compact,
    edsr,
    fsrcnn,
    imdn,
    lapsrn,
    pan,
    plksr,
    rfdn,
    rrdbnet,
    safmn,
    span,
    swinir,
    unet,
)

__all__ = ["ARCHITECTURES", "find_architecture"]

ARCHITECTURES: tuple[Network, ...] = (
    rrdbnet.NETWORK,
    compact.NETWORK,
    span.NETWORK,
    edsr.NETWORK,
    imdn.NETWORK,
    rfdn.NETWORK,
    carn_m.NETWORK,
    fsrcnn.NETWORK,
    lapsrn.NETWORK,
    pan.NETWORK,
    swinir.NETWORK,
    unet.NETWORK,
    plksr.NETWORK,
    safmn.NETWORK,
)
"""Each is built for one scale."""


def find_architecture(name: str) -> Network:
    """The architecture of that name.

    Raises:
        KeyError: there is none; names those that there are.
    """
    for network in ARCHITECTURES:
        if network.name == name:
            return network
    raise KeyError(f"no architecture is called {name}; there are {', '.join(network.name for network in ARCHITECTURES)}")
