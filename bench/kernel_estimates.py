"""How long each operator may take on an H100: its floor, and an estimate of what its CUDA kernels do.

    python -m bench.kernel_estimates        # the table of docs/gpu-estimates.md

Nothing here was measured. A floor is the longer of the least arithmetic and the least traffic at the datasheet's rates.
An estimate adds up an operator's kernels: each takes the longer of both at shares of the rates that its inner loop is
expected to reach, at best and at worst, plus a gap between two kernels of a CUDA graph. `knn` also selects.
"""

from dataclasses import dataclass

from bench import counts
from bench.plan.devices import DATASHEETS
from bench.tables import markdown_table

MAPS, CHANNELS, SIDE, NEIGHBOURS = 224, 128, 16, 4
VOLUME_CHANNELS, RADIUS, STRIDE = 256, 10, 2
BYTES = 2  # bfloat16
DEVICE = DATASHEETS["h100-sxm"]
RATE = DEVICE.flops["bf16"][1]
MULTIPROCESSORS, CLOCK = 132, 1.755e9
GAP = (0.8e-6, 2e-6)  # seconds between two kernels of a graph

# Shares of the datasheet's rates, at best and at worst. Products by mma.sync reach at most 0.6 of Hopper's rate, which
# only wgmma reaches; less where fragments are gathered, or where each is used a few times only.
COPY = (0.85, 0.7)
STREAM = (0.7, 0.5)  # arithmetic between load and store
SCATTER = (0.5, 0.35)  # two bytes a lane
KNN = (0.4, 0.25)
CHANNEL = (0.22, 0.17)  # 64 sums per thread: each fragment meets two or four others; then the messages' exchange
POSITION = (0.27, 0.21)  # a weight's fragment meets four gathered ones, whose loads have bank conflicts
POSITION_BACKWARD = (0.18, 0.14)  # masks, scattered sums, and partial sums of the weights
CUBLAS = (0.7, 0.5)
# Cycles of a warp for the neighbours of one row: rounds of maxima, then candidates inserted one by one (ballots and
# shuffles of some 25 cycles, one after another); at worst a few rows in a hundred compare in float or double.
SELECTION = (1500, 3000)


@dataclass(frozen=True)
class Kernel:
    """A kernel's FLOP, the elements that it moves, the shares that it reaches, and rows for a warp to select from."""

    name: str
    flops: float
    elements: float
    arithmetic: tuple[float, float] = (1, 1)
    traffic: tuple[float, float] = COPY
    rows: float = 0
    warps: int = 1  # that are resident on a multiprocessor, for the selection

    def seconds(self, at: int) -> float:
        """At best (0) or at worst (1)."""
        computing, moving = counts.Work(self.flops, self.elements).seconds_at(RATE, DEVICE.bandwidth, BYTES)
        selecting = self.rows * SELECTION[at] / (MULTIPROCESSORS * self.warps * CLOCK)
        return max(computing / self.arithmetic[at], moving / self.traffic[at]) + selecting + GAP[at]


@dataclass(frozen=True)
class Estimate:
    """An operator with its least work, the kernels that run it, and where the numbers come from in a line."""

    name: str
    least: counts.Work
    kernels: tuple[Kernel, ...]
    derivation: str


def estimates() -> list[Estimate]:
    """All operators on maps of the size that a training step of MOL has at batch 32 (224 pairs of frames)."""
    n, c, p, k = MAPS, CHANNELS, SIDE * SIDE, NEIGHBOURS
    size, product = n * c * p, 2.0 * n * c * p * p  # of one (P, P) matrix
    winners, weights = size / BYTES, 2 * p * p
    fcc_flops, channel_flops, position_flops = 2.0 * size * 2 * SIDE, 2 * product, (k + 1) * product
    similar = {"channel": 2.0 * n * c * c * p, "position": 2.0 * n * p * p * c}
    fcc = Kernel("fcc", fcc_flops, 2 * size, CUBLAS, STREAM)
    knn = {
        "channel": Kernel("knn", similar["channel"], size, KNN, rows=n * c, warps=24),
        "position": Kernel("knn", similar["position"], size, KNN, rows=n * p, warps=16),
    }
    pack = Kernel("pack", 0, 4 * p * p)
    volume = counts.cost_volume(n, VOLUME_CHANNELS, SIDE, SIDE, RADIUS, STRIDE, training=False)
    volume_size, inside = n * VOLUME_CHANNELS * p, n * p * p / STRIDE**2
    forward = 2 * size + winners + weights
    return [
        Estimate("FCC, given statistics", counts.Work(fcc_flops, 2 * size), (fcc,), "x read, y written"),
        Estimate(
            "FCC, batch statistics", counts.Work(fcc_flops, 2 * size), (Kernel("statistics", 0, size), fcc),
            "x read twice: the statistics first",
        ),
        *(
            Estimate(
                f"knn, {graph} graph", counts.Work(similar[graph], size), (knn[graph],),
                f"products of {c if graph == 'channel' else p} nodes a map, then {k} chosen in each of "
                f"{int(knn[graph].rows)} rows",
            )
            for graph in similar
        ),
        Estimate(
            "edge_max, channel graph, forward", counts.Work(channel_flops, forward),
            (Kernel("forward", channel_flops, forward, CHANNEL),), "two products; x, y and a byte per winner",
        ),
        Estimate(
            "edge_max, channel graph, backward", counts.Work(2 * channel_flops, 4 * size + winners),
            (
                Kernel("scatter", 0, 4 * size + winners, traffic=SCATTER),
                Kernel("stack", 0, 4 * p * p),
                Kernel("grad_x", channel_flops, 3 * size, CUBLAS),
                Kernel("grad_W1", product, 2 * size, CUBLAS),
                Kernel("grad_W2", product, 2 * size, CUBLAS),
            ),
            "G and H are written, and read by torch's products",
        ),
        Estimate(
            "edge_max, position graph, forward", counts.Work(position_flops, forward),
            (pack, Kernel("forward", position_flops, forward, POSITION)),
            "k + 1 products; W1 − 2 W2 packed at each call",
        ),
        Estimate(
            "edge_max, position graph, backward", counts.Work(2 * position_flops, 4 * size + winners),
            (
                pack, Kernel("mask", 0, 5 * size), Kernel("transpose", 0, 2 * size),
                Kernel("grad_x", position_flops, 3 * size, POSITION_BACKWARD),
                Kernel("weights", position_flops, 3 * size, POSITION_BACKWARD), Kernel("combine", 0, 64 * p * p),
            ),
            "2 (k + 1) products; before them G masked and x transposed",
        ),
        Estimate(
            "cost volume, forward", volume, (Kernel("forward", volume.flops, volume.elements, CUBLAS, STREAM),),
            f"both maps of {VOLUME_CHANNELS} channels read, {(2 * RADIUS + 1) ** 2} displacements written",
        ),
        Estimate(
            "cost volume, backward", counts.Work(2 * volume.flops, 4 * volume_size + 2 * inside),
            (Kernel("backward", 2 * volume.flops, 4 * volume_size + 4 * inside, CUBLAS, STREAM),),
            "maps and gradients once; the pairs inside from grad_out and out, by the blocks of either map",
        ),
        Estimate(
            "F5C released, inference", counts.Work(fcc_flops + similar["position"] + position_flops, 2 * size),
            (fcc, knn["position"], pack, Kernel("edge_max", position_flops, 3 * size + weights, POSITION)),
            "fcc, knn, pack, edge_max; the residual is added in the last",
        ),
    ]  # fmt: skip


def table() -> str:
    """One line for each operator."""
    lines = []
    for e in estimates():
        arithmetic, traffic = e.least.seconds_at(RATE, DEVICE.bandwidth, BYTES)
        best, worst = (sum(kernel.seconds(at) for kernel in e.kernels) for at in (0, 1))
        work = f"{e.least.flops / 1e9:.1f} / {e.least.elements * BYTES / 1e6:.0f}"
        floor = f"{max(arithmetic, traffic) * 1e6:.0f}, {'arithmetic' if arithmetic > traffic else 'memory'}"
        lines.append([e.name, work, floor, f"{best * 1e6:.0f}–{worst * 1e6:.0f}", e.derivation])
    return markdown_table(["bfloat16, N = 224", "GFLOP / MB", "floor, µs", "estimate, µs", "derivation"], lines)


if __name__ == "__main__":
    print(table())
