"""What joins devices: links by their datasheets, and how long an all-reduce takes over them.

An all-reduce over a ring of N devices sends 2(N−1)/N of its bytes over every link, in 2(N−1) hops (Patarasuk, Yuan,
"Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009). A ring over several nodes runs at its
slowest link, and 2(nodes−1) of its hops cross the network. A message of a few kilobytes takes a tree, up and down. NCCL
chooses between the two by such costs (NCCL, src/graph/tuning.cc).
"""

import math
from dataclasses import dataclass

from mol.common.errors import SettingsError

STARTED = 8.4e-6
"""Seconds before an all-reduce moves anything: NCCL's own figure for a ring (`baseLat`)."""


@dataclass(frozen=True)
class Link:
    """A link in one direction.

    Attributes:
        name: as it is asked for.
        bandwidth: bytes/s.
        latency: seconds of a hop.
        source: of the bandwidth.
    """

    name: str
    bandwidth: float
    latency: float
    source: str

    def __str__(self) -> str:
        return f"{self.name}: {self.bandwidth / 1e9:.4g} GB/s in each direction, {self.latency * 1e6:.3g} µs per hop"


# Latencies are those by which NCCL chooses its algorithm (`hwLat`, ring, Simple), and a round figure for TCP.
_NVLINK, _PCIE, _NET, _TCP = 3.4e-6, 5.7e-6, 14e-6, 50e-6
LINKS = {
    link.name: link
    for link in (
        Link("nvlink3", 300e9, _NVLINK, "NVIDIA A100 datasheet: NVLink 600 GB/s, both directions"),
        Link("nvlink4", 450e9, _NVLINK, "NVIDIA H100 datasheet: NVLink 900 GB/s, both directions"),
        Link("pcie4", 31.5e9, _PCIE, "PCI-SIG, PCI Express 4.0: 16 lanes of 16 GT/s, 128b/130b"),
        Link("pcie5", 63.0e9, _PCIE, "PCI-SIG, PCI Express 5.0: 16 lanes of 32 GT/s, 128b/130b"),
        Link("100gbe", 12.5e9, _NET, "IEEE 802.3ba: 100 Gb/s, with RDMA"),
        Link("10gbe", 1.25e9, _TCP, "IEEE 802.3ae: 10 Gb/s, with TCP"),
    )
}


def find_link(name: str) -> Link:
    """A link by the name of its preset, or "GB/s:µs", such as 25:10.

    Raises:
        SettingsError: it is neither.
    """
    if name in LINKS:
        return LINKS[name]
    try:
        bandwidth, latency = (float(part) for part in name.split(":"))
    except ValueError:
        bandwidth = latency = math.nan
    if not (0 < bandwidth < math.inf and 0 <= latency < math.inf):
        raise SettingsError(
            f"link {name!r} is not known; choose from {', '.join(LINKS)}, or give GB/s in one direction and "
            "microseconds per hop, such as 25:10"
        )
    return Link(name, bandwidth * 1e9, latency * 1e-6, "given")


@dataclass(frozen=True)
class Interconnect:
    """How the devices of a cluster are joined.

    Attributes:
        link: between the devices of a node.
        network: between nodes.
        per_node: devices in a node.
    """

    link: Link
    network: Link
    per_node: int

    def nodes(self, devices: int) -> int:
        """The nodes that so many devices fill."""
        return math.ceil(devices / self.per_node)

    def ring_seconds(self, size: float, devices: int) -> float:
        """Seconds of an all-reduce of `size` bytes over a ring; 0 for one device."""
        if devices == 1:
            return 0.0
        across = self.nodes(devices) - 1
        within = devices - 1 - across
        used = [link for link, hops in ((self.link, within), (self.network, across)) if hops]
        traffic = 2 * (devices - 1) / devices * size / min(link.bandwidth for link in used)
        return STARTED + 2 * (within * self.link.latency + across * self.network.latency) + traffic

    def tree_seconds(self, devices: int) -> float:
        """Seconds of an all-reduce so small that only its hops count, over a tree; 0 for one device."""
        if devices == 1:
            return 0.0
        within = math.ceil(math.log2(min(devices, self.per_node)))
        across = math.ceil(math.log2(self.nodes(devices)))
        return STARTED + 2 * (within * self.link.latency + across * self.network.latency)
