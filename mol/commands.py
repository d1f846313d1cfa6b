"""What each command of `mol.cli` does with its settings, and its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mol.data.check import CheckDataConfig, run_check_data
from mol.data.extract import ExtractConfig, run_extract
from mol.data.prepare import PrepareConfig, run_prepare
from mol.data.sets.registry import describe_sets
from mol.demo import DemoConfig, run_demo
from mol.info import InfoConfig, run_info
from mol.live.run import LiveConfig, run_live
from mol.loso.run import run_loso
from mol.loso.settings import LosoConfig
from mol.networks.registry import describe_networks
from mol.prediction.predict import PredictConfig, run_predict
from mol.report.report import ReportConfig, run_report
from mol.scoring.evaluate import EvaluateConfig, run_evaluate
from mol.spotting.command import SpotConfig, run_spot
from mol.synth.commands import (
    LayoutConfig,
    LongConfig,
    SynthConfig,
    describe_layouts,
    run_layout,
    run_long,
    run_synth,
)
from mol.training.pretrain import PretrainConfig, run_pretrain
from mol.training.settings import TrainConfig
from mol.training.train import run_train

Runner = tuple[type, Callable[[Any], None]]
RUNNERS: dict[str, Runner] = {
    "demo": (DemoConfig, run_demo),
    "prepare": (PrepareConfig, run_prepare),
    "check-data": (CheckDataConfig, run_check_data),
    "extract": (ExtractConfig, run_extract),
    "loso": (LosoConfig, run_loso),
    "report": (ReportConfig, run_report),
    "train": (TrainConfig, run_train),
    "pretrain": (PretrainConfig, run_pretrain),
    "evaluate": (EvaluateConfig, run_evaluate),
    "predict": (PredictConfig, run_predict),
    "live": (LiveConfig, run_live),
    "spot": (SpotConfig, run_spot),
    "synth": (SynthConfig, run_synth),
    "info": (InfoConfig, run_info),
}
SYNTH_LAYOUT: Runner = (LayoutConfig, run_layout)
SYNTH_LONG: Runner = (LongConfig, run_long)
# What the help text of a command lists at its end.
FOOTERS: dict[type, Callable[[], str]] = {
    PrepareConfig: describe_sets,
    LayoutConfig: describe_layouts,
    TrainConfig: describe_networks,
    LosoConfig: describe_networks,
    PretrainConfig: describe_networks,
}
