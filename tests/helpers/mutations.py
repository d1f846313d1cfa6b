"""Random damage to the files of a run, a cache, a checkpoint or a manifest, always the same for the same seed."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 1.5, -0.5, 1e308, float("nan"), float("inf"), 10**9, 10**18, -(10**18), 10**400),
    *("", "text", "1", "../..", "a/b", "\x00", "\ud800", "\x1b[31m", "x" * 300, "x" * 200_000, "naïve ☃"),
    *([], {}, [1], ["a"], [None], [[]], {"a": 1}, {"": None}, [0] * 1000),
)
"""What takes the place of a value."""
CELLS = ("", "x", "nan", "inf", "-1", "1e400", "9" * 30, "9" * 5000, "x" * 1_000_000, '"', "a,b", "\x00", "☃", "0.5")


def mutate(path: Path, rng: random.Random) -> str:
    """Damage a file, in its own format or in its bytes.

    Returns:
        What was done.
    """
    if rng.random() < 0.12:
        return _bytes(path, rng)
    by_suffix: dict[str, Callable[[Path, random.Random], str]] = {
        ".json": _json,
        ".yaml": _yaml,
        ".csv": _csv,
        ".safetensors": _tensors,
    }
    return by_suffix.get(path.suffix, _bytes)(path, rng)


def _bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    kind = rng.choice(("cut", "flip", "invert", "empty", "garbage", "utf-16", "deep", "gone"))
    if kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind in ("flip", "invert"):
        start = rng.randrange(len(data))
        for place in range(start, min(len(data), start + (4000 if kind == "invert" else 1))):
            data[place] ^= 255 if kind == "invert" else 1 << rng.randrange(8)
    elif kind == "empty":
        data.clear()
    elif kind == "garbage":
        data = bytearray(rng.randbytes(300))
    elif kind == "utf-16":
        data = bytearray(bytes(data).decode("utf-8", "replace").encode("utf-16"))
    elif kind == "deep":
        data = bytearray(b"[" * 100_000)
    path.write_bytes(data)
    if kind == "gone":
        path.unlink()
    return kind


def _json(path: Path, rng: random.Random) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    content, what = change(content, rng)
    # json.dumps refuses whole numbers of more than 4,300 digits only; a lone surrogate becomes an escape.
    path.write_text(json.dumps(content), encoding="utf-8")
    return what


def _yaml(path: Path, rng: random.Random) -> str:
    content, what = change(yaml.safe_load(path.read_text(encoding="utf-8")), rng)
    path.write_bytes(yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))
    return what


def change(content: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy of JSON values with one to three of them changed."""
    content, done = copy.deepcopy(content), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(content))
        if not places:
            return rng.choice(VALUES), "all"
        holder, key = rng.choice(places)
        kind = rng.choice(("value", "value", "value", "gone", "wrapped", "text", "double", "negative"))
        old = holder[key]
        if kind == "gone":
            del holder[key]
        elif kind == "value":
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == "wrapped":
            holder[key] = rng.choice(([old], {"value": old}))
        elif kind == "text":
            holder[key] = str(old)
        elif kind == "negative":
            holder[key] = -old if isinstance(old, (int, float)) else [old, old]
        elif isinstance(old, list):
            holder[key] = old + old
        elif isinstance(holder, dict):
            holder[f"{key}2"] = old
        done.append(f"{kind} {key}: {str(holder[key] if kind == 'value' else '')[:40]!r}")
    return content, "; ".join(done)


def _places(content: Any) -> Any:
    """(holder, key) of every value; of a long list the first entries only, so that short ones are met as often."""
    items = content.items() if isinstance(content, dict) else enumerate(content[:4])
    for key, value in list(items):
        yield content, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _csv(path: Path, rng: random.Random) -> str:
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    row = rng.choice(rows)
    kind = rng.choice(("cell", "cell", "cell", "short", "long", "twice", "gone"))
    column = rng.randrange(len(row)) if row else 0
    if kind == "cell" and row:
        row[column] = rng.choice(CELLS)
    elif kind == "short" and row:
        del row[column]
    elif kind == "long":
        row.append(rng.choice(CELLS))
    elif kind == "twice":
        rows.append(list(row))
    else:
        rows.remove(row)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return f"{kind} {column}"


def _tensors(path: Path, rng: random.Random) -> str:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    name = rng.choice(sorted(tensors))
    value = tensors[name].clone()
    kind = rng.choice(("nan", "inf", "negative", "shape", "dtype", "gone", "renamed", "more", "zero", "huge", "header"))
    if kind in ("nan", "inf", "huge", "zero") and value.is_floating_point():
        value.fill_({"nan": torch.nan, "inf": torch.inf, "huge": 3e38, "zero": 0}[kind])
        tensors[name] = value
    elif kind == "negative":
        tensors[name] = -value.abs() - 1
    elif kind == "shape":
        tensors[name] = value.unsqueeze(0).repeat(2, *[1] * value.dim())
    elif kind == "dtype":
        tensors[name] = value.to(rng.choice((torch.float16, torch.float64, torch.int32, torch.bool)))
    elif kind == "gone":
        del tensors[name]
    elif kind == "renamed":
        tensors[rng.choice(("x", f"99{name}", f"-1.{name}", "a.b.c", ""))] = tensors.pop(name)
    elif kind == "more":
        tensors["more"] = value
    elif header:
        key = rng.choice(sorted(header))
        content, _ = change(json.loads(header[key]), rng)
        header = {**header, key: rng.choice((json.dumps(content), "", "[" * 100_000, "x"))}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=header)
    return f"{kind} {name}"


def sign(checkpoint: Path) -> None:
    """Write sizes and checksums of a checkpoint's files into its state.json, as if a program had written them."""
    path = checkpoint / "state.json"
    state = json.loads(path.read_text())
    for name in list(state["files"]):
        if (checkpoint / name).is_file():
            data = (checkpoint / name).read_bytes()
            state["files"][name] = {"bytes": len(data), "crc32": zlib.crc32(data)}
    path.write_text(json.dumps(state))
