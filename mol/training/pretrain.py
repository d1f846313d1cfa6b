"""``mol pretrain``: from synthetic clips alone to one file of weights that any training can start from.

    <run>/pretrain.yaml, checkpoints/, log.csv, …    a run folder like that of `mol train`
    <run>/held-out/                                  clips of the people held out, on which it is scored
    <run>/<network>.safetensors                      the file, unless --out names another place

The clips to train on are rendered while the network trains (`mol.synth.rendered_clips`); none comes twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

import molkernels as mk
from mol.common.checks import MOST_WORKERS, require_at_most, require_not_negative, require_positive
from mol.common.environment import versions
from mol.common.errors import SettingsError
from mol.common.terminal import console, counting, say
from mol.data.action_units import learned_units
from mol.data.clips import CROP
from mol.data.split import Split, split_by_subject
from mol.network.estimates import LANDMARKS
from mol.network.model import FRAMES
from mol.networks.interface import Network
from mol.networks.registry import find_network
from mol.networks.trained import load_model
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.scoring.evaluation import Evaluation
from mol.scoring.table import evaluation_table, score_rows
from mol.synth.clip_plan import SynthSettings
from mol.synth.faces import TERMS, FaceImage, load_faces
from mol.synth.rendered_clips import RenderedClips
from mol.synth.synthetic_set import GENERATOR, recorded, synthesize
from mol.training.launch import Launched
from mol.training.ranks import ALONE
from mol.training.resume import as_it_began, checkpoint_to_resume
from mol.training.runlog import Timing, describe_busy_share
from mol.training.settings import RunSettings
from mol.training.starting import read_starting_weights, write_starting_weights
from mol.training.step import open_device
from mol.training.train import Data, evenly, fit, sole_writer, starting_weights

# Settings of a training on a cache that have no meaning here, and the values that they must keep.
_WITHOUT: dict[str, Any] = {
    "counts": "require",
    "inner_validation": 0.0,
    "selection": "last",
    "normalisation": "clip",
    "balanced": False,
}
# What the recipe in the file leaves out: it says where and when, not what.
_NOT_IN_RECIPE = ("synth", "run", "out", "resume", "device", "workers", "ahead", "log_every", *_WITHOUT)

# Clips that are planned, but not rendered, to know how frequent each action unit is.
_SAMPLE = 2000

_LICENCE = (
    "These weights have the licence of molkernels, Apache-2.0. They were learned from synthetic clips made of these "
    "pictures: {pictures} The landmarks of the pictures are those of dlib's 68-point predictor, which was trained on "
    "300-W, a set for research use only; whether that binds weights learned from its output is not settled. Scores on "
    "synthetic clips say nothing about recognition of real micro-expressions."
)


@dataclass
class PretrainConfig(RunSettings):
    """Training on synthetic clips that are rendered meanwhile; how it trains is set by `TrainingSettings`.

    Some of those settings keep their defaults: every clip is new, the classes are equally frequent, and nobody is set
    aside.

    Attributes:
        run: folder to write; it holds this configuration, versions, curves, checkpoints and the clips of the people
            held out.
        out: safetensors file to write; in the run folder, with the network's name, when empty.
        held_out: share of the people of the pictures never trained on, or their names such as "orl-s07"; the scores in
            the file are theirs.
        synth: what the clips are like. Its "clips" and "subclips" are those of each person held out, its "seed" is
            theirs; the clips to train on are without number.
        workers: processes that render; one per core but one (and at least one) when 0.
        ahead: batches that are rendered ahead of the training; each takes 1.5 MB of memory per clip.
        tvl1_pairs: pairs of frames on which TV-L1 is compared with the network's flow; 0 leaves it out.
    """

    command: ClassVar[str] = "mol pretrain"
    file: ClassVar[str] = "pretrain.yaml"

    run: str = "runs/pretrain"
    out: str | None = None
    held_out: float | list[str] = 0.2
    synth: SynthSettings = field(
        default_factory=lambda: SynthSettings(pictures=10, clips=36, amplitude=(0.5, 3.0), noise=1.0)
    )
    workers: int = 0
    ahead: int = 3
    tvl1_pairs: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "workers", "tvl1_pairs")
        require_at_most(self, workers=MOST_WORKERS, ahead=10**4)
        require_positive(self, "ahead")
        if foreign := [name for name, kept in _WITHOUT.items() if getattr(self, name) != kept]:
            raise SettingsError(
                f"mol pretrain has no setting {', '.join(foreign)}: every clip is new, the classes are equally "
                "frequent, and nobody is set aside; leave it out"
            )
        if (self.devices, self.num_nodes, self.accumulate) not in ((1, 1, 1), ("auto", 1, 1)):
            raise SettingsError(
                "mol pretrain trains on one device, with whole batches; leave out devices, num_nodes and accumulate"
            )
        if self.synth.frames != FRAMES or self.synth.size < CROP:
            raise SettingsError(
                f"synth.frames={self.synth.frames}, synth.size={self.synth.size}: networks take {FRAMES} frames and "
                f"crops of {CROP} pixels, so frames must be {FRAMES} and size at least {CROP}"
            )

    @property
    def weights(self) -> Path:
        """The file to write."""
        return Path(self.out) if self.out else Path(self.run) / f"{self.network}.safetensors"


class PretrainResult(NamedTuple):
    """A finished run.

    Attributes:
        weights: the file.
        evaluation: on the people held out.
        timing: of the steps that this process did.
    """

    weights: Path
    evaluation: Evaluation
    timing: Timing


def run_pretrain(config: PretrainConfig) -> None:
    """Train on synthetic clips and write the file of weights."""
    result = pretrain(config)
    console().print(evaluation_table(result.evaluation))
    if result.timing.steps:
        say(describe_busy_share(result.timing.busy_share))
    say(f"starting weights: {read_starting_weights(result.weights).name}, {result.weights}")
    say(f"next: mol loso CACHE --protocol PROTOCOL --init {result.weights}")


def pretrain(config: PretrainConfig) -> PretrainResult:
    """Train on clips that are rendered meanwhile, score the network on people held out, and write it as one file.

    Args:
        config: everything that shapes the run.
    Raises:
        SettingsError: settings that cannot work, a run folder that holds a run, a file that exists, a resumed run with
            other settings, a training that diverges.
        InUseError: another process trains in the run folder.
        TrainingInterrupted: after a stop signal (`mol.common.signals`), once everything is saved.
        CacheError, CheckpointError, StorageError, MissingExtraError: clips, weights, disk or packages fail; the
            message says which.
        MOLError: a worker process died twice.
    """
    with sole_writer(config):
        return _pretrain(config)


def _pretrain(config: PretrainConfig) -> PretrainResult:
    fabric, config = open_device(as_it_began(config))
    device = Launched(fabric, ALONE)
    start = starting_weights(config)
    if checkpoint_to_resume(config) is None:
        if config.weights.exists():
            raise SettingsError(f"{config.weights} already exists; move it away, or choose another --out")
        say(f"finding the landmarks of up to {config.synth.pictures} pictures of each person")
    faces = load_faces(config.synth.sources, config.synth.people, config.synth.pictures)
    people = _split(config, faces)
    network = find_network(config.network)
    with RenderedClips(
        network,
        [faces[i] for i in people.train],
        config.synth,
        fabric.device,
        config.augment,
        config.workers,
        config.ahead,
        config.steps,
    ) as training:
        data = _data(config, network, fabric.device, training, people, [faces[i] for i in people.held_out])
        result = fit(config, device, data, start=start)
    evaluation = evaluate(
        EvaluateConfig(
            weights=config.run,
            device=config.device,
            precision=config.precision,
            tvl1_pairs=config.tvl1_pairs,
            pictures=False,
        )
    )
    trained = load_model(config.run)
    write_starting_weights(config.weights, trained.model, _file_facts(config, trained.state, evaluation))
    return PretrainResult(config.weights, evaluation, result.timing)


def _split(config: PretrainConfig, faces: list[FaceImage]) -> Split:
    """Pictures to train on and to hold out, by person."""
    held_out = config.held_out if isinstance(config.held_out, (int, float)) else list(config.held_out)
    rows = [{"dataset": "synthetic", "subject": face.subject} for face in faces]
    return split_by_subject(rows, held_out, config.seed)


def _data(
    config: PretrainConfig,
    network: Network,
    device: torch.device,
    training: RenderedClips,
    people: Split,
    held_out: list[FaceImage],
) -> Data:
    """The clips to train on, and those of the people held out, which are rendered here."""
    with counting("rendering clips") as count:
        folder = Path(config.run) / "held-out"
        cache = synthesize(folder, config.synth, config.workers or None, count, faces=held_out)
    every = np.arange(len(cache))
    units, notes = None, list[str]()
    if config.action_units is not None:
        rows = training.sampled_rows(_SAMPLE, config.seed)
        units, notes = learned_units(config.action_units, "the clips that are rendered", rows, rows)
    return Data(
        cache=str(cache.path),
        classes=list(cache.classes),
        split=people._replace(train=every[:0], held_out=every),
        training=training,
        about="new clips",
        watched=network.hold(cache, evenly(every, config.validation_clips), device) if config.validate_every else None,
        watched_name="held_out",
        mean_shape=training.mean_shape() if LANDMARKS in network.estimates else None,
        action_units=units,
        notes=notes,
    )


def _file_facts(config: PretrainConfig, state: Mapping[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    """The metadata of the file."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_IN_RECIPE}
    start = state["starting_weights"]
    earlier = start["people"] if start else []
    pictures = " ".join(TERMS[source] for source in config.synth.sources)
    return {
        "program": f"molkernels {mk.__version__}, mol pretrain",
        "network": config.network,
        "classes": state["classes"],
        "people": sorted({*state["train_people"], *earlier}),
        "held_out_people": state["held_out_people"],
        "recipe": {
            "clips": {"generator": GENERATOR, **recorded(config.synth)},
            "training": settings,
            "seed": config.seed,
            "steps": state["step"],
            "starting_weights": start,
        },
        "scores": {
            "people": len(evaluation.people),
            "videos": evaluation.videos,
            "clips": evaluation.clips,
            "note": evaluation.note,
            "scores": [row._asdict() for row in score_rows(evaluation)],
        },
        "versions": versions(),
        "licence": _LICENCE.format(pictures=pictures),
    }
