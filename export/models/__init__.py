"""The networks that sredge exports: one file per family, and this list."""

from export.models import espcn, lesrcnn, mdsr, srcnn, srgan
from export.models.network import Network, PublishedWeights, Shapes
from export.models.outside import announced_names, find_outside
from runtime.errors import UnknownNameError, UserError

__all__ = ["NETWORKS", "Network", "PublishedWeights", "Shapes", "announced_names", "find_network", "find_outside"]

NETWORKS: tuple[Network, ...] = (
    lesrcnn.NETWORK,
    lesrcnn.BLIND,
    espcn.NETWORK,
    srcnn.NETWORK,
    mdsr.NETWORK,
    mdsr.WITH_ATTENTION,
    srgan.NETWORK,
)


def find_network(name: str, *, scale: float) -> Network:
    """Return the network of that name, checked to have that scale; an error lists what there is.

    Args:
        name: one of NETWORKS, one that an installed package announces, or `my_package.my_net:NETWORK`.
    """
    network = next((network for network in NETWORKS if network.name == name), None) or find_outside(name)
    if network is None:
        hint = f"python -m export {NETWORKS[0].name} --scale {NETWORKS[0].scales[0]}"
        valid = (*(network.name for network in NETWORKS), *announced_names())
        raise UnknownNameError("network", name, valid=valid, hint=f"{hint}; your own: my_package.my_net:NETWORK")
    if not network.has_scale(scale):
        raise UserError(f"{name} has no scale {scale:g}; it has: {network.describe_scales()}", hint=f"--scale {network.scales[0]}")
    return network
