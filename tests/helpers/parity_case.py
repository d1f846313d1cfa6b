"""The recorded cases of `tests/data/parity`: outputs and gradients of the released network.

A case contains no weights. They are rebuilt from names and shapes by integer arithmetic, bit-identical everywhere.
"""

import json
import zlib

import numpy as np
import torch
from places import DATA

FOLDER = DATA / "parity"


def released_state(tag: str, num_classes: int) -> dict[str, torch.Tensor]:
    """A released-layout state dict with the values of case `tag`."""
    shapes = json.loads((FOLDER / "released_shapes.json").read_text())
    shapes["mer_3dcnn.fc2.weight"] = [num_classes, 256]
    shapes["mer_3dcnn.fc2.bias"] = [num_classes]
    return {
        name: torch.from_numpy(np.array(parameter(f"{tag}/{name}", tuple(shape)))) for name, shape in shapes.items()
    }


def uniform(name: str, shape) -> np.ndarray:
    """float64 values in [-1, 1) from splitmix64 over (crc32(name), flat index)."""
    count = int(np.prod(shape)) if len(shape) else 1
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode())) * np.uint64(0x100000001B3)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0).reshape(shape)


def parameter(name: str, shape) -> np.ndarray:
    """One entry of a released-layout state dict, scaled so that activations stay of order one."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    u = uniform(name, shape)
    if name.endswith("running_var"):
        return (1.0 + 0.5 * u).astype(np.float32)
    if name.endswith(("running_mean", "bias")):
        return (0.1 * u).astype(np.float32)
    if "_pe_" in name:
        return (0.5 * u).astype(np.float32)
    if len(shape) == 1:  # a norm's scale
        return (1.0 + 0.2 * u).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    if "deconv" in name or "upsampled" in name:  # transposed: (in, out, kh, kw), stride 2
        fan_in = shape[0] * int(np.prod(shape[2:])) // 4
    return (np.sqrt(3.0 / fan_in) * u).astype(np.float32)


def clip(name: str, batch: int, frames: int = 8, size: int = 128) -> np.ndarray:
    """(batch, 1, frames, size, size) float32: a textured plane in slow non-rigid motion, roughly zero mean."""
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    out = np.zeros((batch, 1, frames, size, size))
    for b in range(batch):
        waves = uniform(f"{name}/waves/{b}", (24, 4))
        for t in range(frames):
            dx = x + 0.6 * t * np.sin(2 * np.pi * y / size)
            dy = y + 0.4 * t * np.cos(2 * np.pi * x / size)
            for fx, fy, phase, gain in waves:
                out[b, 0, t] += gain * np.sin(2 * np.pi * (10 * fx * dx + 10 * fy * dy) / size + np.pi * phase)
    out += 0.05 * uniform(f"{name}/noise", out.shape)
    return (out / 8.0).astype(np.float32)
