"""The networks sredge exports: one file a family, and this list."""

from export.models import espcn, lesrcnn, mdsr, srcnn, srgan
from export.models.network import Network, PublishedWeights, Shapes
from runtime.errors import UnknownNameError, UserError

__all__ = ["NETWORKS", "Network", "PublishedWeights", "Shapes", "find_network"]

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
    """The network family of that name, checked to have that scale; an error lists what there is."""
    for network in NETWORKS:
        if network.name == name:
            if not network.has_scale(scale):
                raise UserError(
                    f"{name} has no scale {scale:g}; it has: {network.describe_scales()}", hint=f"--scale {network.scales[0]}"
                )
            return network
    hint = f"python -m export {NETWORKS[0].name} --scale {NETWORKS[0].scales[0]}"
    raise UnknownNameError("network", name, valid=(network.name for network in NETWORKS), hint=hint)
