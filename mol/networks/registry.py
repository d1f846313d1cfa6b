"""All networks: the ``NETWORK`` of every module of this package.

A new network is one module next to the others; nothing else has to list it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

import mol.networks
from mol.common.checks import unknown_name
from mol.common.errors import SettingsError
from mol.networks.interface import Network

# It imports this module, and defines no network.
_READER = "mol.networks.trained"

DEFAULT = "mol"
"""The network of a run that names none, as those of earlier versions."""


def collect() -> Mapping[str, Network]:
    """Name → network: the default first, the others by name.

    Raises:
        SettingsError: two modules define a network of the same name.
    """
    modules: dict[str, str] = {}
    found: list[Network] = []
    for module in pkgutil.iter_modules(mol.networks.__path__, "mol.networks."):
        if module.name in (__name__, _READER):
            continue
        network = getattr(import_module(module.name), "NETWORK", None)
        if network is None:
            continue
        if (first := modules.setdefault(network.name, module.name)) != module.name:
            raise SettingsError(
                f"{first} and {module.name} both define the network {network.name!r}; rename one of them."
            )
        found.append(network)
    ordered = sorted(found, key=lambda network: (network.name != DEFAULT, network.name))
    return MappingProxyType({network.name: network for network in ordered})


NETWORKS = collect()


def find_network(name: str) -> Network:
    """The network with this name.

    Raises:
        SettingsError: an unknown name; the message suggests a similar one and lists them all.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    raise unknown_name("network", name, NETWORKS)


def networks_with(settings: Sequence[str]) -> list[str]:
    """Names of the networks that have all of some settings (dotted names)."""
    return [name for name, network in NETWORKS.items() if all(network.has_setting(setting) for setting in settings)]


def title_of(name: str) -> str:
    """What tables and pictures call a network; the name itself if this installation does not have it."""
    return NETWORKS[name].title if name in NETWORKS else name


def describe_networks() -> str:
    """Every network with its defaults and a sentence, for the help of commands that train."""
    lines = []
    for network in NETWORKS.values():
        own = network.usual
        lines += [
            f"  {network.name}: {network.summary}",
            f"    {own.steps} steps of {own.batch_size} clips, learning rate {own.learning_rate:g}, {own.schedule}",
        ]
    return "\n".join(
        ["networks, and what --steps, --batch-size, --learning-rate and --schedule are when empty:", *lines]
    )
