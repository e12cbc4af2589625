"""A copy of a network that holds no weights of its own."""

import copy
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def sharing_weights(network: Network) -> Network:
    """Copy the modules of a network around the same parameters.

    Adapters that are added to one of the two are not in the other: so a reference is the policy without its adapters,
    and a critic an adapter and a head on the same trunk. Whoever changes the parameters themselves changes both.
    """
    return copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})
