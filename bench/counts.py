"""Least work of each operation, counted by hand: floating-point operations and bytes that must move.

A multiply-add counts two operations. Bytes are those of inputs, parameters and outputs, each once, at the contender's
precision; whatever else an implementation moves shows as a lower share of the limit. Backward passes count the products
that they cannot avoid: for each forward product, one for the input and one for the weights.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Floating-point operations, and elements that are read or written at least once."""

    flops: float
    elements: float

    def seconds_at(
        self, flops_per_second: float, bytes_per_second: float, bytes_per_element: int
    ) -> tuple[float, float]:
        """Seconds of arithmetic and of traffic at these rates; the longer of the two is the limit."""
        return self.flops / flops_per_second, self.elements * bytes_per_element / bytes_per_second


def fcc(n: int, c: int, h: int, w: int, training: bool) -> Work:
    """Two circular correlations per pixel, of H and of W terms; x and y (training: also statistics, dx, dy)."""
    size = n * c * h * w
    forward = 2 * size * (h + w)
    return Work(3 * forward, 6 * size) if training else Work(forward, 2 * size)


def ccc(n: int, c: int, p: int, k: int, graph: str, training: bool) -> Work:
    """Similarities and products with W1 and W2, of which the position graph needs k + 1 (one is with the node)."""
    nodes, length = (c, p) if graph == "channel" else (p, c)
    similarities = 2 * n * nodes * nodes * length
    products = 2 if graph == "channel" else k + 1
    edges = products * 2 * n * c * p * p
    size = n * c * p
    weights = 2 * p * p
    return (
        Work(similarities + 3 * edges, 5 * size + 2 * weights)
        if training
        else Work(similarities + edges, 2 * size + weights)
    )


def f5c(n: int, c: int, h: int, w: int, k: int, graph: str, training: bool) -> Work:
    """FCC and CCC; the map between them can stay on the chip."""
    first = fcc(n, c, h, w, training)
    second = ccc(n, c, h * w, k, graph, training)
    return Work(first.flops + second.flops, second.elements)


def cost_volume(n: int, c: int, h: int, w: int, radius: int, stride: int, training: bool) -> Work:
    """One product of C terms for each pixel and displacement that stays inside the map."""
    inside = _pairs_inside(h, radius, stride) * _pairs_inside(w, radius, stride)
    forward = 2 * n * c * inside
    size, volume = n * c * h * w, n * (2 * radius + 1) ** 2 * h * w
    return Work(3 * forward, 4 * size + 2 * volume) if training else Work(forward, 2 * size + volume)


def _pairs_inside(length: int, radius: int, stride: int) -> int:
    return sum(max(0, length - stride * abs(d)) for d in range(-radius, radius + 1))


def mol_released(batch: int, frames: int, parameters: int, training: bool) -> Work:
    """The released network: stack and flow encoder once per frame, without the 216 dead cost-volume channels.

    A training step is three times the forward products (AdamW's arithmetic is not counted), and touches every parameter
    ten times: read in forward and backward, gradient written, four reads and three writes of AdamW.
    """
    pairs = frames - 1
    block = f5c(1, 128, 16, 16, 4, "position", training=False).flops
    volume = cost_volume(1, 256, 16, 16, 10, 2, training=False).flops
    clip = frames * _products(_PER_FRAME) + pairs * (2 * block + volume + _products(_PER_PAIR)) + _products(_PER_CLIP)
    data = batch * (frames * 128**2 + pairs * (2 * 128**2 + 136))
    if training:
        return Work(3 * batch * clip, 10 * parameters + 2 * data)
    return Work(batch * clip, parameters + data)


def _products(layers: tuple[tuple[int, int, int, int], ...]) -> float:
    return sum(2.0 * inputs * outputs * taps * pixels for inputs, outputs, taps, pixels in layers)


# (channels in, channels out, kernel taps, pixels out; pixels in for transposed convolutions)
_PER_FRAME = (
    (1, 8, 16, 63**2), (8, 32, 9, 31**2), (32, 64, 4, 16**2), (64, 128, 1, 16**2),  # stack
    (1, 64, 36, 64**2), (64, 128, 16, 32**2), (128, 256, 4, 16**2),  # flow encoder
)  # fmt: skip
_PER_PAIR = (
    (256, 32, 1, 16**2), (32 + 225 + 256, 256, 9, 16**2), (256, 512, 9, 8**2), (512, 512, 9, 8**2),
    (512, 512, 9, 4**2), (512, 512, 9, 4**2), (512, 1024, 9, 2**2), (1024, 1024, 9, 2**2),
    (1024, 512, 16, 2**2), (1026, 256, 16, 4**2), (770, 128, 16, 8**2),  # transposed
    (386, 128, 16, 16**2), (258, 64, 16, 32**2), (130, 32, 16, 64**2),  # transposed
    *((2, 2, 16, side**2) for side in (2, 4, 8, 16, 32, 64)),  # flow upsamplers, transposed
    *((channels, 2, 9, side**2) for channels, side in
      ((1024, 2), (1026, 4), (770, 8), (386, 16), (258, 32), (130, 64), (35, 128))),  # flow predictors
    (128, 32, 9, 14**2), (6272, 512, 1, 1), (512, 136, 1, 1),  # landmark head
)  # fmt: skip
_PER_CLIP = ((128, 32, 20, 8 * 8 * 10), (2560, 256, 1, 1))
