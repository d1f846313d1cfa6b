"""What each command of `mol.cli` does with its settings, and its output.

A command's module is imported when the command is looked up: reading a video with an exported network needs no PyTorch,
and neither does a look at a manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from types import ModuleType
from typing import Any

Runner = tuple[type, Callable[[Any], None]]


class Runners(MutableMapping[str, Runner]):
    """Command → the class of its settings, and the function that runs it.

    Args:
        places: command → what imports both.
    """

    def __init__(self, places: Mapping[str, Callable[[], Runner]]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> Runner:
        return self._places[name]()

    def __setitem__(self, name: str, runner: Runner) -> None:
        self._places[name] = lambda: runner

    def __delitem__(self, name: str) -> None:
        del self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _of(settings: ModuleType, config: str, run: str, module: ModuleType | None = None) -> Runner:
    return getattr(settings, config), getattr(module or settings, run)


RUNNERS = Runners(
    {
        "demo": lambda: _of(import_module("mol.demo"), "DemoConfig", "run_demo"),
        "prepare": lambda: _of(import_module("mol.data.prepare"), "PrepareConfig", "run_prepare"),
        "check-data": lambda: _of(import_module("mol.data.check"), "CheckDataConfig", "run_check_data"),
        "extract": lambda: _of(import_module("mol.data.extract"), "ExtractConfig", "run_extract"),
        "loso": lambda: _of(
            import_module("mol.loso.settings"), "LosoConfig", "run_loso", import_module("mol.loso.run")
        ),
        "report": lambda: _of(import_module("mol.report.report"), "ReportConfig", "run_report"),
        "train": lambda: _of(
            import_module("mol.training.settings"), "TrainConfig", "run_train", import_module("mol.training.train")
        ),
        "pretrain": lambda: _of(import_module("mol.training.pretrain"), "PretrainConfig", "run_pretrain"),
        "evaluate": lambda: _of(import_module("mol.scoring.evaluate"), "EvaluateConfig", "run_evaluate"),
        "predict": lambda: _of(import_module("mol.prediction.predict"), "PredictConfig", "run_predict"),
        "spot": lambda: _of(import_module("mol.spotting.command"), "SpotConfig", "run_spot"),
        "live": lambda: _of(import_module("mol.live.run"), "LiveConfig", "run_live"),
        "export": lambda: _of(import_module("mol.export.export"), "ExportConfig", "run_export"),
        "synth": lambda: _of(import_module("mol.synth.commands"), "SynthConfig", "run_synth"),
        "info": lambda: _of(import_module("mol.info"), "InfoConfig", "run_info"),
    }
)
# A data set's own folders and long videos have other settings than a cache.
_LAYOUTS = {"SYNTH_LAYOUT": ("LayoutConfig", "run_layout"), "SYNTH_LONG": ("LongConfig", "run_long")}


def __getattr__(name: str) -> Runner:
    """``SYNTH_LAYOUT`` and ``SYNTH_LONG``: what ``mol synth --layout`` runs."""
    if name in _LAYOUTS:
        return _of(import_module("mol.synth.commands"), *_LAYOUTS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _networks() -> str:
    return str(import_module("mol.networks.registry").describe_networks())


# What the help text of a command lists at its end, by the class of its settings.
FOOTERS: dict[str, Callable[[], str]] = {
    "PrepareConfig": lambda: import_module("mol.data.sets.registry").describe_sets(),
    "LayoutConfig": lambda: import_module("mol.synth.commands").describe_layouts(),
    "TrainConfig": _networks,
    "LosoConfig": _networks,
    "PretrainConfig": _networks,
}
