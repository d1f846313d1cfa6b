"""Settings of training: dataclasses, read once at the edge from YAML and the command line."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from mol.common.checks import (
    require_at_most,
    require_not_negative,
    require_one_of,
    require_plain_numbers,
    require_positive,
)
from mol.common.differences import flat
from mol.common.errors import SettingsError
from mol.common.extras import require
from mol.common.storage import write_text
from mol.common.typed import read_yaml
from mol.data.action_units import FACS
from mol.data.clips import Augmentation
from mol.networks.interface import Defaults, Network
from mol.networks.registry import DEFAULT, find_network, networks_with

# Replaced by the network's own value when the settings are made, so that no one else ever sees it.
_THE_NETWORKS: Any = None


@dataclass
class ModelConfig:
    """MOL.

    Attributes:
        k: neighbours of a channel (or position) in the graph of CCC, including itself.
        variant: "paper", or "released" for the function that the published code computes.
        batch_stats: BatchNorm statistics per "frame" or per "clip"; the variant's own when empty.
        dropout: probability, in the emotion head; 0.3 when empty, 0.5 in the published form.
        backend: kernels to run: "auto" or one of `molkernels.available_backends`.
        fcc: the fully-connected convolution in the F5C blocks; false leaves it out.
        ccc: the channel correspondence convolution in the F5C blocks; false leaves it out.
        f5c: the F5C blocks; false puts the identity in their place.
        graph: nodes of CCC, "channel" or "position"; the variant's own when empty.
        meeting: how the features of two frames meet: "normal-flow" (change over slope), or "side-by-side" as in the
            released variant and in version 0.2; the variant's own when empty.
    """

    k: int = 4
    variant: Literal["paper", "released"] = "paper"
    batch_stats: Literal["frame", "clip"] | None = None
    dropout: float = _THE_NETWORKS
    backend: str = "auto"
    fcc: bool = True
    ccc: bool = True
    f5c: bool = True
    graph: Literal["channel", "position"] | None = None
    meeting: Literal["normal-flow", "side-by-side"] | None = None

    def __post_init__(self) -> None:
        require_plain_numbers(self)
        require_positive(self, "k")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout={self.dropout} must be a share in [0, 1)")


@dataclass
class LossConfig:
    """Weights of the three losses of `mol.network.losses`.

    A loss with weight 0 is only logged: it has no gradient, and its head keeps its initial weights.

    Attributes:
        w_me: weight of the cross entropy of the emotion; 1 when empty.
        w_of: weight of the mean squared error of the flow (pixels squared); 20 when empty, 10/7 in the published form.
        w_ldm: weight of the landmark error in inter-ocular distances; 3.5 when empty, the default of the published
            code; 0.7 is that of its README.
        w_au: weight of the cross entropy of the action units, if the network tells any (action_units); 1 when empty.
    """

    w_me: float = _THE_NETWORKS
    w_of: float = _THE_NETWORKS
    w_ldm: float = _THE_NETWORKS
    w_au: float | None = None

    def __post_init__(self) -> None:
        weights = dataclasses.asdict(self)
        require_plain_numbers(self)
        require_at_most(self, **dict.fromkeys(weights, 1e6))
        require_not_negative(self, *(name for name, weight in weights.items() if weight is not None))
        always = {name: weight for name, weight in weights.items() if name != "w_au"}
        if not self.w_au and not any(weight is None or weight for weight in always.values()):
            raise SettingsError(f"{', '.join(always)} are all 0, which leaves nothing to learn from")


@dataclass
class RateConfig:
    """Learning rates of parts of the network, relative to that of the rest.

    Attributes:
        flow: of the flow network; 0.3 when empty, 1 in the published form.
        predictors: of its layers that put out flow: they add up thousands of inputs, so small motion needs small steps;
            0.02 when empty, that of `flow` in the published form.
        emotion: of the emotion head; 1 when empty.
    """

    flow: float = _THE_NETWORKS
    predictors: float | None = None
    emotion: float = _THE_NETWORKS

    def __post_init__(self) -> None:
        rates = dataclasses.asdict(self)
        require_plain_numbers(self)
        require_at_most(self, **dict.fromkeys(rates, 1e6))
        require_not_negative(self, *(name for name, rate in rates.items() if rate is not None))


@dataclass
class TrainingSettings:
    """How a network is trained, whatever it is trained on.

    Attributes:
        network: what to train: "mol", or a baseline; the list is at the end of this help.
        counts: what to do if the caches do not hold the numbers of videos and people that the protocol asserts:
            "require" stops, "warn" continues and says so (a partial set; its scores are not reportable).
        inner_validation: share of the training people set aside for validation, to calibrate the network's confidence
            and, with selection "inner-val", to choose the checkpoint; 0 trains on all of them, validates on the
            held-out people and leaves confidence uncalibrated.
        selection: "last" keeps the last step; "inner-val" also keeps the step with the lowest loss on the people of
            inner_validation, in checkpoints/best; "test-peek" keeps the step with the highest accuracy on the held-out
            people, as the published code does; its scores are never reportable.
        normalisation: "clip", or "released-subject" for the published one (mean and maximum of each person's clips).
        steps: optimisation steps; the network's own number when empty.
        batch_size: clips per step; the network's own number when empty.
        balanced: draw every class equally often.
        learning_rate: of AdamW, at its peak; the network's own when empty.
        weight_decay: of AdamW, on every parameter.
        clip_norm: maximum norm of the gradient; 0 for no clipping.
        schedule: "constant" (the published one) or "cosine" to zero at the last step; the network's own when empty.
        warmup_steps: steps over which the learning rate rises from zero; the network's own when empty.
        flow_pairs: pairs of frames per step on which the flow of "mol" is trained, drawn anew from all clips of the
            step: "all", or a number; with 0 the flow network is skipped. The network's own when empty.
        action_units: facial action units that "mol" also learns to tell: their numbers, such as [1, 4, 12], or "auto"
            for all that at least 10 training videos show. The cache has them from the data set's sheet; none when
            empty.
        init: weights to start from: a file of `mol pretrain`, or a run or checkpoint folder; random ones when empty.
            With other classes the last layer of the emotion head is new.
        model: the network "mol"; a baseline has no such settings.
        loss: weights of the losses of "mol".
        rates: learning rates of the parts of "mol" relative to learning_rate.
        augment: how training crops vary.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "32", "bf16-mixed" for bfloat16 where it is safe, or "auto": bfloat16 on a GPU that computes in it.
        compile: run the network through torch.compile.
        channels_last: keep convolution weights and maps in channels-last order; "auto" does so on a GPU.
        graph: capture the training step in one CUDA graph, which a GPU replays without waiting for the program; "auto"
            does so for "mol" on a GPU.
        devices: processes on each machine that train the network together, each on a GPU of its own, or on the CPU;
            "auto" takes all GPUs, and on the CPU one process. They learn what one device would.
        num_nodes: machines that take part; the command is started on each with torchrun or srun.
        strategy: how devices work together: "ddp" gives each a part of the batch; "auto" is the same.
        accumulate: parts of the batch that are computed one after another, for less memory; each has its own batch
            statistics.
        requeue: under Slurm, put the job back into the queue when SIGUSR1 or SIGUSR2 (#SBATCH --signal) says that its
            time is up; with --resume in its script.
        log_every: steps between two lines of log.csv.
        validate_every: steps between two validations, on people not trained on; 0 for none.
        validation_clips: maximum number of clips per validation ("test-peek" takes all).
        checkpoint_every: steps between two checkpoints; the last step is always saved.
        resume: resume the run in the run folder, or start it if there is none.
    """

    network: str = DEFAULT
    counts: Literal["require", "warn"] = "require"
    inner_validation: float = 0.0
    selection: Literal["last", "inner-val", "test-peek"] = "last"
    normalisation: Literal["clip", "released-subject"] = "clip"
    steps: int = _THE_NETWORKS
    batch_size: int = _THE_NETWORKS
    balanced: bool = False
    learning_rate: float = _THE_NETWORKS
    weight_decay: float = 1e-3
    clip_norm: float = 10.0
    schedule: Literal["constant", "cosine"] = _THE_NETWORKS
    warmup_steps: int = _THE_NETWORKS
    flow_pairs: int | Literal["all"] = _THE_NETWORKS
    action_units: list[int] | Literal["auto"] | None = None
    init: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rates: RateConfig = field(default_factory=RateConfig)
    augment: Augmentation = field(default_factory=Augmentation)
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    channels_last: bool | Literal["auto"] = "auto"
    graph: bool | Literal["auto"] = "auto"
    devices: int | Literal["auto"] = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    accumulate: int = 1
    requeue: bool = False
    log_every: int = 10
    validate_every: int = 250
    validation_clips: int = 256
    checkpoint_every: int = 500
    resume: bool = False

    def __post_init__(self) -> None:
        require_plain_numbers(self)
        network = find_network(self.network)
        require_settings_of(network, self)
        _fill(self, network.defaults(dataclasses.asdict(self.model)))
        require_positive(
            self, "steps", "batch_size", "learning_rate", "log_every", "validation_clips", "checkpoint_every"
        )
        require_not_negative(self, "weight_decay", "clip_norm", "warmup_steps", "validate_every")
        require_positive(self, "num_nodes", "accumulate", *(() if self.devices == "auto" else ("devices",)))
        require_at_most(
            self, num_nodes=10**5, accumulate=10**6, **({} if self.devices == "auto" else {"devices": 10**4})
        )
        require_one_of(self, "strategy", ("auto", "ddp"))
        require_at_most(self, learning_rate=100, weight_decay=1e6, steps=10**9, batch_size=10**6)
        if self.flow_pairs is not None:
            _check_flow_pairs(self.flow_pairs, self.loss)
        _check_action_units(self.action_units, self.model, self.loss)
        if not 0 <= self.inner_validation < 1:
            raise SettingsError(f"inner_validation={self.inner_validation} must be a share in [0, 1)")
        require_one_of(self, "counts", ("require", "warn"))
        require_one_of(self, "selection", ("last", "inner-val", "test-peek"))
        require_one_of(self, "schedule", ("constant", "cosine"))
        require_one_of(self, "channels_last", (True, False, "auto"))
        require_one_of(self, "graph", (True, False, "auto"))
        if self.selection == "inner-val" and not (self.inner_validation and self.validate_every):
            raise SettingsError('selection="inner-val" needs inner_validation > 0 and validate_every > 0')
        if self.selection == "test-peek" and (self.inner_validation or not self.validate_every):
            raise SettingsError('selection="test-peek" needs validate_every > 0 and inner_validation = 0')


@dataclass
class RunSettings(TrainingSettings):
    """One training run, whatever its clips are.

    Attributes:
        run: folder to write; it holds this configuration, versions, curves and checkpoints.
        seed: of the split, the initial weights, the order of the clips, crops and dropout.
    """

    command: ClassVar[str] = "mol train"
    file: ClassVar[str] = "config.yaml"

    run: str = "runs/mol"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "seed")
        held_out = getattr(self, "held_out", None)
        if isinstance(held_out, (int, float)) and not 0 < held_out < 1:
            raise SettingsError(f"held_out={held_out} must be a fraction between 0 and 1, or a list of names")

    def resume_command(self) -> str:
        """The command that resumes the run, to be typed in the same folder."""
        return f"{self.command} --config {shlex.quote(str(Path(self.run) / self.file))} --resume"


@dataclass
class TrainConfig(RunSettings):
    """One training run on one split of the people of a cache; how it trains is set by `TrainingSettings`.

    Attributes:
        cache: folder made by `mol synth` or `mol extract`; with a protocol, one or several.
        protocol: names the classes of the clips, such as "megc2019"; the cache's own classes when empty.
        held_out: share of the people never trained on, or their names (subject or dataset/subject).
    """

    cache: str | list[str] = field(kw_only=True)
    protocol: str | None = None
    held_out: float | list[str] = 0.2


def _fill(config: TrainingSettings, defaults: Defaults) -> None:
    """Put a network's own values where a configuration has none."""
    for name, value in vars(defaults).items():
        own = getattr(config, name)
        if isinstance(value, Mapping):
            given = {key: now for key, now in dataclasses.asdict(own).items() if now is not None}
            setattr(config, name, type(own)(**{**value, **given}))
        elif own is None:
            setattr(config, name, value)


def _check_flow_pairs(flow_pairs: Any, loss: LossConfig) -> None:
    number = isinstance(flow_pairs, int) and not isinstance(flow_pairs, bool)
    if flow_pairs != "all" and not (number and flow_pairs >= 0):
        raise SettingsError(f'flow_pairs={flow_pairs!r} must be a whole number that is not negative, or "all"')
    if flow_pairs == 0 and not (loss.w_me or loss.w_ldm or loss.w_au):
        raise SettingsError("flow_pairs=0 trains no flow, and w_me and w_ldm are 0, which leaves nothing to learn from")


def _check_action_units(units: Any, model: ModelConfig, loss: LossConfig) -> None:
    if units is None:
        if loss.w_au is not None:
            raise SettingsError(f'loss.w_au={loss.w_au} weighs action units; name some with --action-units, or "auto"')
        return
    if units != "auto" and not (isinstance(units, (list, tuple)) and units and len(set(map(str, units))) == len(units)):
        raise SettingsError(f'action_units={units!r} must be different numbers such as [1, 4, 12], or "auto"')
    if units != "auto" and (strange := [unit for unit in units if type(unit) is not int or unit not in FACS]):
        raise SettingsError(f"action_units: the Facial Action Coding System has no unit {strange[0]!r}")
    if model.variant == "released" or model.meeting == "side-by-side":
        what = "variant=released" if model.variant == "released" else "meeting=side-by-side"
        raise SettingsError(
            f"action_units are told from the normal flow, which a network with model.{what} does not have; leave one "
            "of them out"
        )


def require_settings_of(network: Network, config: TrainingSettings) -> None:
    """Refuse a setting that the network does not have, unless it is empty or has its usual value.

    Raises:
        SettingsError: naming the settings, and the networks that have them.
    """
    usual = _special(ModelConfig(), LossConfig(), RateConfig(), Augmentation(), "clip", _THE_NETWORKS)
    now = _special(config.model, config.loss, config.rates, config.augment, config.normalisation, config.flow_pairs)
    usual, now = usual | {"action_units": None}, now | {"action_units": config.action_units}
    foreign = [name for name in usual if now[name] != usual[name] and not network.has_setting(name)]
    if foreign:
        raise SettingsError(
            f"the network {network.name} has no setting {', '.join(foreign)}; leave it out, or train a network that "
            f"has it: {', '.join(networks_with(foreign))}"
        )


def _special(
    model: ModelConfig,
    loss: LossConfig,
    rates: RateConfig,
    augment: Augmentation,
    normalisation: str,
    flow_pairs: int | str | None,
) -> dict[str, Any]:
    """The settings that not every network has, by their dotted names."""
    sections: dict[str, Any] = {"model": model, "loss": loss, "rates": rates, "augment": augment}
    named = dict(flat({name: dataclasses.asdict(section) for name, section in sections.items()}))
    del named["augment.flip"]
    return {**named, "normalisation": normalisation, "flow_pairs": flow_pairs}


def save_config(config: Any, path: Path) -> None:
    """Write a configuration as YAML, every field, ready for ``--config``.

    Raises:
        StorageError: the file could not be written.
    """
    yaml = require("yaml", "train")
    write_text(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True))


def read_saved_config(path: Path) -> dict[str, Any]:
    """The settings that `save_config` wrote, by name.

    Raises:
        DataError: the file is missing or damaged.
    """
    return read_yaml(path, dict[str, Any], "copy the whole run folder again, or start a new run")
