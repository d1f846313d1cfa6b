"""Precision by name."""

from __future__ import annotations

from mol.common import devices
from mol.common.devices import fastest_precision


def test_precision_follows_the_processor(tmp_path, monkeypatch):
    found: list[str] = []
    for flags in ("fpu avx512_bf16", "fpu amx_bf16", "fpu avx2"):
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor : 0\nflags\t\t: {flags}\n", encoding="utf-8")
        monkeypatch.setattr(devices, "_CPUINFO", file)
        found.append(fastest_precision("cpu"))
    monkeypatch.setattr(devices, "_CPUINFO", tmp_path / "nowhere")
    found.append(fastest_precision("cpu"))
    assert found == ["bf16-mixed", "bf16-mixed", "32", "32"]
