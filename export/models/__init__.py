"""The networks sredge exports: one file a family, and this list."""

from export.models import espcn, lesrcnn
from export.models.network import Network, PublishedWeights
from runtime.errors import UnknownNameError, UserError

__all__ = ["NETWORKS", "Network", "PublishedWeights", "find_network"]

NETWORKS: tuple[Network, ...] = (lesrcnn.NETWORK, espcn.NETWORK)


def find_network(name: str, *, scale: int) -> Network:
    """The network family of that name, checked to have that scale; an error lists what there is."""
    for network in NETWORKS:
        if network.name == name:
            if scale not in network.scales:
                scales = ", ".join(str(known) for known in network.scales)
                raise UserError(f"{name} has no scale {scale}; it has: {scales}", hint=f"--scale {network.scales[0]}")
            return network
    hint = f"python -m export {NETWORKS[0].name} --scale {NETWORKS[0].scales[0]}"
    raise UnknownNameError("network", name, valid=(network.name for network in NETWORKS), hint=hint)
