"""The profile of a training step: parts that sum to the whole, floors counted by hand, layers by name."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import molkernels as mk
from bench import counts
from bench import profile_step as ps
from mol import MOL
from mol.common.errors import SettingsError
from mol.network.flownet import ConvNorm, Predictor, Upsample

LIMITS = {"copy": {"bytes_per_second": 1e9}, "gemm": {"float32": 1e12}}
WEIGHTED = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def event(name, total=0.0, children=(), shapes=(), settings=(), number=-1):
    """An event as the profiler has it; microseconds."""
    return SimpleNamespace(
        name=name,
        cpu_time_total=total,
        self_cpu_time_total=total - sum(child.cpu_time_total for child in children),
        cpu_children=list(children),
        structured_input_shapes=list(shapes),
        concrete_inputs=list(settings),
        sequence_nr=number,
    )


def flat(*events):
    return [e for event in events for e in (event, *flat(*event.cpu_children))]


def a_step():
    copy = event("aten::copy_", 200, shapes=[[10], [10]])
    conv = event(
        "aten::convolution",
        3000,
        [copy],
        [[2, 3, 6, 6], [8, 3, 3, 3]],
        [None, None, None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1],
        number=7,
    )
    layer = event(f"{ps.LAYER}net.conv", 3500, [conv])
    gradient = event(
        "aten::convolution_backward",
        5000,
        shapes=[[2, 8, 2, 2], [2, 3, 6, 6], [8, 3, 3, 3]],
        settings=[None, None, None, [8], [2, 2], [0, 0], [1, 1], False, [0, 0], 1, [False, True, True]],
    )
    node = event(f"{ps.NODE}ConvolutionBackward0", 5100, [gradient], number=7)
    return event(ps.STEP, 10000, [layer, node])


def test_parts_sum_to_the_step_and_take_in_what_an_operator_calls():
    rows = ps.step_rows(flat(a_step()), 4)
    times = {}
    for row in rows:
        times[row.part] = times.get(row.part, 0) + row.milliseconds
    assert times == pytest.approx({"convolutions, forward": 3, "convolutions, gradient": 5, ps.REST: 2})


def test_time_outside_the_step_is_refused():
    with pytest.raises(RuntimeError, match=r"parts sum to 10\.0 ms, the profile to 11\.0 ms"):
        ps.step_rows(flat(a_step(), event("aten::mm", 1000)), 4)


def test_a_gradient_belongs_to_the_layer_of_its_forward():
    rows = {row.operator: row for row in ps.step_rows(flat(a_step()), 4)}
    assert rows["aten::convolution_backward"].layer == "net.conv"
    assert rows["aten::convolution_backward"].direction == "gradient"
    assert rows["aten::convolution"].direction == "forward"


def test_work_of_convolutions_counted_by_hand():
    rows = {row.operator: row for row in ps.step_rows(flat(a_step()), 4)}
    forward, gradient = rows["aten::convolution"], rows["aten::convolution_backward"]
    product = 2 * 2 * (8 * 3 * 9) * 4  # 2 maps of 2×2 pixels
    assert (forward.flops, forward.bytes) == (product, 4 * (2 * 3 * 36 + 8 * 3 * 9 + 2 * 8 * 4))
    # The input needs no gradient: one product, and nothing written for it.
    assert (gradient.flops, gradient.bytes) == (product, 4 * (2 * 8 * 4 + 2 * 3 * 36 + 2 * 8 * 3 * 9))


def work(name, shapes, settings=()):
    return ps.part_of(event(name, shapes=shapes, settings=settings))[1]


def test_work_of_a_transposed_convolution_counts_input_pixels():
    settings = [None, None, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1]
    found = work("aten::convolution", [[3, 5, 4, 6], [5, 7, 4, 4]], settings)
    assert found == counts.Work(2 * 3 * 5 * 7 * 16 * 24, 3 * 5 * 24 + 5 * 7 * 16 + 3 * 7 * 8 * 12)


@pytest.mark.parametrize(("name", "shapes"), [("aten::mm", []), ("aten::addmm", [[5]])])
def test_work_of_a_product(name, shapes):
    found = work(name, [*shapes, [3, 4], [4, 5]])
    assert found == counts.Work(2 * 3 * 4 * 5, 12 + 20 + 15)


def test_memory_passes_count_every_tensor_of_a_list():
    assert work("aten::cat", [[[2, 3], [2, 5]], []]).elements == 2 * 16
    assert work("aten::_fused_adamw_", [[[8, 3], [8]], [[8, 3], [8]]]).elements == 7 * 32


@pytest.mark.parametrize("graph", mk.functional.checks.GRAPHS)
def test_kernels_of_ccc_sum_to_the_work_of_ccc(graph):
    n, c, p, k = 3, 4, 6, 2
    nodes, length = (c, p) if graph == "channel" else (p, c)
    x, idx = [n, c, p], [n, nodes, k]
    names = ("knn", "edge_max", "edge_max_backward")
    shapes = ([[n, nodes, length], []], [x, idx], [x, x, idx])
    flops = [work(f"molkernels::{name}", some, [None, k]).flops for name, some in zip(names, shapes, strict=True)]
    assert sum(flops[:2]) == counts.ccc(n, c, p, k, graph, training=False).flops
    assert sum(flops) == counts.ccc(n, c, p, k, graph, training=True).flops


def test_a_floor_is_the_longer_of_arithmetic_and_traffic():
    row = ps.Row("p", "l", "forward", "o", "", 9.0, 2e9, 1e6)
    assert row.floor(LIMITS, "float32") == pytest.approx(2.0)
    slow = ps.Row("p", "l", "forward", "o", "", 9.0, 2e9, 3e6)
    assert slow.floor(LIMITS, "float32") == pytest.approx(3.0)


class Small(nn.Module):
    """Every kind of layer, with and without the product form of tiny maps."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, 2)
        self.large, self.tiny = ConvNorm(8, 8, 3, 1, 1), ConvNorm(8, 8, 3, 4, 1)
        self.up, self.twin = Upsample(8, 8), Upsample(8, 8)
        self.predict = Predictor(8)
        self.cost, self.fcc, self.ccc = mk.CostVolume(2, 1), mk.FCC(8, 4), mk.CCC(8, 4, 2)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        y = self.tiny(self.large(self.first(x), 1), 1)
        y = self.ccc(self.fcc(self.up(y) + self.twin(y)))
        return self.head(self.predict(y).flatten(2).sum(2)).sum() + self.cost(y, y).sum()


@pytest.fixture(scope="module")
def small_rows():
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ps.name_layers(model)

    def step():
        optimizer.zero_grad()
        model(torch.randn(2, 1, 17, 17)).backward()
        optimizer.step()

    return ps.profiled(step)


def test_every_layer_of_a_real_step_is_named_forward_and_gradient(small_rows):
    """Twins of the same shapes, and convolutions that run as products, too."""
    found = {(row.layer, row.direction) for row in small_rows if row.flops}
    layers = ("first", "large", "tiny", "up", "twin", "predict", "cost", "fcc", "fcc.mix", "ccc", "head")
    assert found == {(layer, way) for layer in layers for way in ("forward", "gradient")}


def test_products_of_a_tiny_map_do_the_work_of_its_convolution(small_rows):
    rows = [row for row in small_rows if row.layer == "tiny"]
    forward = sum(row.flops for row in rows if row.direction == "forward")
    assert forward == 2 * 2 * 8 * 8 * 9 * 4
    assert sum(row.flops for row in rows) == 3 * forward
    assert {row.part for row in rows if row.flops} == {ps.PRODUCTS}


def test_a_flow_predictor_does_the_work_of_its_convolution(small_rows):
    rows = [row for row in small_rows if row.layer == "predict"]
    work = {row.direction: row for row in rows if row.flops}
    maps, channels, pixels = 2, 8, 4 * 4
    assert work["forward"].flops == 2 * maps * pixels * 2 * channels * 9
    assert work["gradient"].flops == 2 * work["forward"].flops
    weight, x, y = 2 * channels * 9, maps * channels * pixels, maps * 2 * pixels
    assert work["forward"].bytes == 4 * (x + weight + y)
    assert work["gradient"].bytes == 4 * (3 * (x + weight) + y)
    assert {row.part for row in work.values()} == {"flow predictors, forward", "flow predictors, gradient"}


def test_every_layer_of_mol_has_a_named_owner():
    """A layer's weights are used under its own name or, where its owner calls it by function, under the owner's."""
    model = MOL()
    names = dict(model.named_modules())
    owners = {
        name.removesuffix(".conv") if isinstance(names[name.rpartition(".")[0]], (ConvNorm, Upsample)) else name
        for name, module in names.items()
        if isinstance(module, WEIGHTED)
    }
    assert len(owners) == sum(isinstance(module, WEIGHTED) for module in names.values())
    assert {"flow.conv6_1", "flow.upsample5", "flow.predict0", "landmarks.fc1", "emotion.conv", "stack.0"} <= owners
    ps.name_layers(model)
    assert all("forward" in vars(names[owner]) for owner in owners)


def result_of(rows):
    about = {"device": "A CPU", "torch": "2", "date": "2026-01-02T03", "commit": "abc"}
    return {
        "machine": about,
        "limits": LIMITS,
        "contender": "cpu-float32",
        "batch": 2,
        "steps": 1,
        "seconds_unprofiled": [0.008],
        "rows": [vars(row) for row in rows],
    }


def test_tables_have_shares_floors_and_gaps():
    text = ps.markdown(result_of(ps.step_rows(flat(a_step()), 4)))
    assert "10 ms under the profiler and 8 ms without it, in turns: +25.0 %" in text
    assert "| convolutions, gradient | 5.0 | 50.0 % | 0.0 | 5.0 | 0 % |" in text
    assert "| **all** | 10.0 | 100.0 % |" in text
    assert "| `net.conv` | 3.5 / 0.0 | 5.1 / 0.0 | 8.6 |" in text


def test_tables_are_written_between_the_markers_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{ps.BEGIN}\nold\n{ps.END}\nafter\n", encoding="utf-8")
    ps.write_between_markers(page, "new")
    assert page.read_text(encoding="utf-8") == f"before\n{ps.BEGIN}\n\nnew\n\n{ps.END}\nafter\n"
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(SettingsError, match="put both where the tables belong"):
        ps.write_between_markers(page, "new")
