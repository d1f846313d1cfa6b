"""The list of networks: found by themselves, described, and named in errors."""

from __future__ import annotations

import types

import pytest

import mol.networks.mol
import mol.networks.registry
from mol.common.errors import SettingsError
from mol.networks.registry import NETWORKS, collect, describe_networks, find_network, networks_with, title_of


def test_mol_comes_first_and_is_the_default() -> None:
    assert next(iter(NETWORKS)) == mol.networks.registry.DEFAULT == "mol"


def test_every_network_describes_itself() -> None:
    for name, network in NETWORKS.items():
        assert network.name == name
        assert network.summary.endswith(".")
        assert network.source
        assert network.terms[0] == "emotion"
        assert f"  {name}: {network.summary}" in describe_networks()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"unknown network 'mole'; did you mean mol\? \(networks: mol, "):
        find_network("mole")


def test_a_network_that_is_not_installed_keeps_its_name_in_tables() -> None:
    assert title_of("mol") == "MOL"
    assert title_of("swin") == "swin"


def test_settings_lead_to_the_networks_that_have_them() -> None:
    assert networks_with(["model.k", "loss.w_of"]) == ["mol"]
    assert networks_with(["models.k"]) == []


def test_two_modules_with_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = types.SimpleNamespace(name="mol.networks.twin")
    found = [types.SimpleNamespace(name="mol.networks.mol"), twin]
    monkeypatch.setattr("pkgutil.iter_modules", lambda *_: found)
    monkeypatch.setattr(mol.networks.registry, "import_module", lambda _: mol.networks.mol)
    with pytest.raises(
        SettingsError, match=r"mol\.networks\.mol and mol\.networks\.twin both define the network 'mol'"
    ):
        collect()
