"""Files that the project itself writes: checkpoints, caches, manifests, run folders, evaluations, starting weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from torture import materials
from torture.readers.arrays import npy_edits, safetensors_edits
from torture.readers.documents import csv_edits, json_edits, set_in_json, yaml_edits
from torture.readers.edits import Edits, byte_edits, file_edits, weighed
from torture.readers.reader import Reader
from torture.sandbox import InvalidResultError, Limits

_TRAIN = f"train --cache cache --run run --steps 3 {materials.TRAIN} {materials.TRAIN_ONCE} --resume"


def command(*arguments: str) -> None:
    """Run a command of `mol` in this process.

    Raises:
        MOLError: as the command line prints it.
    """
    from mol.cli import main
    from mol.common.errors import MOLError

    if status := main(arguments):
        raise MOLError(f"mol {arguments[0]} ended with status {status}")


def edits_of(base: Path, files: Sequence[str]) -> Edits:
    """Edits of some files, by their suffix; seldom something else in the place of one."""
    kinds: list[tuple[int, Edits]] = []
    for file in files:
        suffix = Path(file).suffix
        if suffix == ".json":
            # Most faults are in what JSON says, so it is edited most.
            kinds.append((18, json_edits(base, file)))
        elif suffix == ".csv":
            kinds.append((9, csv_edits(base, file)))
        elif suffix == ".yaml":
            kinds.append((6, yaml_edits(base, file)))
        elif suffix == ".npy":
            kinds.append((3, npy_edits(file)))
        elif suffix == ".safetensors":
            kinds.append((6, safetensors_edits(base, file)))
        kinds.append((3, byte_edits(file)))
    return weighed(*kinds, (1, file_edits(files)))


def _all(base: Path) -> Edits:
    return edits_of(base, sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()))


def _only(*patterns: str) -> Callable[[Path], Edits]:
    """Edits of the files that a reader is about, not of what lies beside them."""

    def edits(base: Path) -> Edits:
        files = [path for pattern in patterns for path in sorted(base.glob(pattern)) if path.is_file()]
        return edits_of(base, [str(path.relative_to(base)) for path in files])

    return edits


def _copied(*names: str) -> Callable[[Path, Path], None]:
    """Makes a valid folder of some of the materials."""

    def make(made: Path, base: Path) -> None:
        for name in names:
            source = made / name
            ignore = shutil.ignore_patterns("tensorboard")
            if source.is_dir():
                shutil.copytree(source, base / name, ignore=ignore)
            else:
                shutil.copy(source, base / name)

    return make


# --- Checkpoints ----------------------------------------------------------------------------------------------------


def _make_checkpoint(made: Path, base: Path) -> None:
    shutil.copytree(made / "run/checkpoints/last", base / "run")


def _mend_checkpoint(folder: Path, checkpoint: str = "run") -> None:
    """Sizes and checksums in state.json of the files as they are now."""
    state = folder / checkpoint / "state.json"
    try:
        text = state.read_text(encoding="utf-8") if state.is_file() else ""
    except UnicodeDecodeError:
        return
    for name in ("weights.safetensors", "optimizer.safetensors"):
        file = state.with_name(name)
        if file.is_file() and not file.is_symlink():
            data = file.read_bytes()
            now = json.dumps({"bytes": len(data), "crc32": zlib.crc32(data)})
            text = set_in_json(text, ["files", name], now)
    if text:
        state.write_text(text, encoding="utf-8", errors="surrogatepass")


def _import_prediction() -> None:
    for name in ("mol.prediction.predict", "mol.prediction.storyboard", "mol.data.cache", "safetensors.torch"):
        import_module(name)


_FILM: dict[str, Any] = {}


def _hold_film(made: Path) -> None:
    """Read the film once, before processes are forked."""
    from mol.data.cache import Cache
    from mol.vision.video import Video

    cache = Cache.open(made / "small")
    frames = np.array(cache.frames[0])
    _FILM["video"] = Video(frames, 25.0, [f"frame {index}" for index in range(len(frames))])
    _FILM["landmarks"] = np.array(cache.landmarks[0])


def _remember_flow() -> None:
    """Let TV-L1, which takes seconds per video, be computed once per picture: every example reads the same video."""
    onset_apex = import_module("mol.networks.onset_apex")
    compute, known = onset_apex.tvl1_flow, dict[Any, np.ndarray]()

    def flow(frames: np.ndarray, *settings: Any) -> np.ndarray:
        key = (frames.tobytes(), frames.shape, settings)
        if key not in known:
            known[key] = compute(frames, *settings)
        return np.array(known[key])

    vars(onset_apex)["tvl1_flow"] = flow


def _rehearse(folder: Path, read: Callable[[], object]) -> None:
    """Read a valid example in this process, so that what is remembered is there before processes are forked."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        read()
    finally:
        os.chdir(before)


def _read_checkpoint() -> None:
    """What `mol predict` does with a network, without its pictures."""
    from mol.networks.trained import load_model
    from mol.prediction.predict import check_normalisation, describe_prediction, predict_video
    from mol.scoring.calibration import temperature_of

    trained = load_model("run")
    check_normalisation(trained.state, "run")
    temperature = temperature_of(trained.state)
    prediction = predict_video(
        trained.model, _FILM["video"], trained.classes, landmarks=_FILM["landmarks"], network=trained.network
    )
    text = describe_prediction(dataclasses.replace(prediction, calibration=temperature))
    if not np.isfinite(prediction.probabilities).all():
        raise InvalidResultError(f"probabilities that are not finite: {text}")
    if not all(isinstance(name, str) for name in trained.classes):
        raise InvalidResultError(f"classes that are no names: {trained.classes}")


# --- Caches ---------------------------------------------------------------------------------------------------------


def _mend_cache(folder: Path) -> None:
    """Checksums of the rows as they are now, as far as the arrays can be opened."""
    from mol.data.cache.format import layouts, open_arrays, read_settings, row_checksum

    cache = folder / "small"
    if (cache / "checksums.npy").is_symlink() or any(path.is_fifo() for path in cache.iterdir()):
        return
    try:
        settings = read_settings(cache)
        count = len(np.load(cache / "checksums.npy"))
        arrays = open_arrays(cache, count, layouts(settings.frames, settings.size))
        sums = np.array([row_checksum(arrays, row) for row in range(count)], np.uint64)
    except Exception:  # NumPy passes on whatever its parser of headers raises
        return
    np.save(cache / "checksums.npy", sums)


def _read_cache() -> None:
    """Open, check every row, take the rows as two networks do."""
    from mol.data.cache import Cache
    from mol.data.check.caches import check_cache
    from mol.data.pool import open_clips
    from mol.networks.registry import find_network

    cache = Cache.open("small")
    findings = list(check_cache(cache))
    if not all(isinstance(name, str) for name in (*cache.classes, *cache.subjects)):
        raise InvalidResultError(f"names that are no texts: {cache.classes}, {cache.subjects}")
    if len({video.clip for video in cache.videos}) > len(cache) or cache.labels.shape != (len(cache),):
        raise InvalidResultError("videos or labels do not fit the rows")
    pool = open_clips("small", "as-labelled")
    if any(finding.severity == "error" for finding in findings):
        return
    rows = np.arange(len(pool))
    for name in ("apex-difference", "mol"):
        network = find_network(name)
        network.notes(pool)
        batch = network.training_batch(network.hold(pool, rows), 0, 0, 1, "all")
        if not all(value.isfinite().all() for value in _tensors(batch)):
            raise InvalidResultError(f"a batch for {name} that is not finite")


def _tensors(batch: Any) -> Iterable[Any]:
    import torch

    return [value for value in batch if isinstance(value, torch.Tensor) and value.is_floating_point()]


def _import_cache() -> None:
    for name in ("mol.data.check.caches", "mol.data.pool", "mol.networks.mol", "mol.networks.apex_difference", "cv2"):
        import_module(name)


# --- Manifests ------------------------------------------------------------------------------------------------------


def _make_manifest(made: Path, base: Path) -> None:
    """The manifest of a set that lies beside it, with empty pictures."""
    _copied("manifest")(made, base)
    for path in (made / "set").rglob("*"):
        if path.is_file() and path.suffix in materials.PICTURES:
            there = base / "set" / path.relative_to(made / "set")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.touch()
    head = base / "manifest" / "manifest.json"
    head.write_text(set_in_json(head.read_text(), ["root"], '"../example/set"'))


def _mend_manifest(folder: Path) -> None:
    """The digest of the table as it is now."""
    head, table = folder / "manifest/manifest.json", folder / "manifest/clips.csv"
    if head.is_file() and table.is_file() and not head.is_symlink() and not table.is_symlink():
        digest = hashlib.sha256(table.read_bytes()).hexdigest()
        try:
            text = head.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return
        changed = set_in_json(text, ["sha256"], f'"{digest}"')
        head.write_text(changed, encoding="utf-8", errors="surrogatepass")


def _read_manifest() -> None:
    """Read, look at the names of all frames, and plan the extraction."""
    from mol.data.check import CheckDataConfig, check_data
    from mol.data.extract.settings import ExtractConfig
    from mol.data.extract.work import plan_work
    from mol.data.manifest import read_manifest

    manifest = read_manifest(Path("manifest"))
    for clip in manifest.clips:
        if not isinstance(clip.onset, int) or not 0 <= clip.fps < float("inf"):
            raise InvalidResultError(f"a clip that cannot be: {clip}")
    check_data(CheckDataConfig(["manifest"], pictures=False, workers=1))
    plan_work(ExtractConfig(manifest="manifest", landmarks=None, workers=1))


def _manifest_edits(base: Path) -> Edits:
    return edits_of(base, ["manifest/manifest.json", "manifest/clips.csv"])


def _import_manifest() -> None:
    import_module("mol.data.check")
    detector_of = import_module("mol.data.extract.clip").detector_of
    detector_of(import_module("mol.data.extract.settings").ExtractionSettings())


# --- Run folders ----------------------------------------------------------------------------------------------------


def _read_loso() -> None:
    """Read a leave-one-subject-out run and every number that its report shows."""
    from mol.loso.measures import MEASURES
    from mol.loso.saved_run import read_run
    from mol.networks.registry import title_of

    run = read_run("loso")
    for group in run.groups:
        run.confusion(group)
        for name in run.measured(tuple(MEASURES)):
            run.score(group, name)
            run.fold_mean(group, name)
    run.right_by_person()
    title_of(run.network)
    if len({video.key for video in run.videos}) > len(run.videos):
        raise InvalidResultError("more videos than votes")


def _report() -> None:
    command("report", "loso", "--device", "cpu", "--pictures", "false")


def _resume_loso() -> None:
    caches = ["cache", "--protocol", "as-labelled", "--run", "loso", "--folds", "1-2", "--steps", "2"]
    command("loso", *caches, *materials.TRAIN.split(), "--resume")


def _read_log_and_settings() -> None:
    """What is read of a training run beside its checkpoints."""
    from mol.scoring.evaluation import read_evaluation
    from mol.training.runlog import read_log
    from mol.training.settings import read_saved_config

    read_saved_config(Path("run/config.yaml"))
    curves = read_log(Path("run/log.csv"))
    if not all(isinstance(step, int) for curve in curves.values() for step, _ in curve):
        raise InvalidResultError("steps that are no numbers")
    evaluation = read_evaluation(Path("evaluation/evaluation.json"))
    from mol.scoring.table import evaluation_table

    evaluation_table(evaluation)


def _make_log(made: Path, base: Path) -> None:
    (base / "run").mkdir()
    for name in ("config.yaml", "log.csv"):
        shutil.copy(made / "run" / name, base / "run" / name)
    (base / "evaluation").mkdir()
    shutil.copy(made / "evaluation/evaluation.json", base / "evaluation")


def _import_report() -> None:
    for name in ("mol.report.report", "mol.commands", "matplotlib.pyplot", "mol.loso.saved_run"):
        import_module(name)


def _import_commands() -> None:
    for name in ("mol.commands", "mol.training.train", "torch.utils.tensorboard", "matplotlib.pyplot"):
        import_module(name)


# --- Starting weights -----------------------------------------------------------------------------------------------


def _read_start() -> None:
    """Read starting weights, and start a network from them."""
    import torch

    from mol.networks.registry import find_network

    starting = import_module("mol.training.starting")
    start = starting.read_starting_weights("start.safetensors")
    starting.read_metadata("start.safetensors")
    network = find_network("apex-difference")
    with torch.random.fork_rng(devices=[]):
        module = network.rebuild(num_classes=2)
    new = starting.start_from(start, module, network, ["happiness", "surprise"])
    starting.describe_start(start, new, ["happiness", "surprise"])
    starting.require_strangers(start, ["synthetic/nobody"])
    if not all(value.isfinite().all() for value in module.state_dict().values() if value.is_floating_point()):
        raise InvalidResultError("weights that are not finite")


# --------------------------------------------------------------------------------------------------------------------

_SLOW = Limits(processor=40, memory=3 << 30)
_EVALUATE = "evaluate --weights run --cache small --people [orl-s01] --out evaluation --tvl1-pairs 0 --pictures false"
_PREDICT = "predict film.mp4 --weights run --landmarks landmarks.csv --out prediction --overlay false --device cpu"
_VOTES = ("loso/folds/*/*/fold.json", "loso/folds/*/*/predictions.csv")
_PLAN = ("loso/folds.json", "loso/loso.yaml")


def readers() -> list[Reader]:
    """All readers of the project's own files."""
    loso = {"loso": _copied("loso")}
    checkpoint = {"run": _make_checkpoint_and_film}
    found = [
        Reader("checkpoint", 1300, 130, _read_checkpoint, checkpoint, _all, _mend_checkpoint, _import_prediction),
        Reader("cache", 1500, 140, _read_cache, {"small": _copied("small")}, _all, _mend_cache, _import_cache),
        Reader(
            "manifest",
            1100,
            90,
            _read_manifest,
            {"smic": _make_manifest},
            _manifest_edits,
            _mend_manifest,
            _import_manifest,
        ),
        Reader("loso-run", 1100, 60, _read_loso, loso, _only(*_PLAN, *_VOTES), prepare=_import_report),
        Reader("training-run", 700, 50, _read_log_and_settings, {"run": _make_log}, _all, prepare=_import_report),
    ]
    if materials.has_pretrain():
        start = {"start": _copied("start.safetensors")}
        found.append(Reader("starting-weights", 600, 40, _read_start, start, _all, prepare=_import_commands))
    return [*found, *(reader.with_(limits=_SLOW, prepare=_import_commands) for reader in _whole_commands())]


def _whole_commands() -> list[Reader]:
    """Whole commands on damaged folders: fewer examples, but with everything that they write."""
    loso, resumed = {"loso": _copied("loso")}, {"loso": _copied("loso", "cache")}
    trained, last = {"run": _copied("run", "cache")}, "run/checkpoints/last"
    train, evaluate, predict = (partial(command, *line.split()) for line in (_TRAIN, _EVALUATE, _PREDICT))
    mend_last = partial(_mend_checkpoint, checkpoint=last)
    return [
        Reader("report", 80, 120, _report, loso, _only(*_PLAN, *_VOTES)),
        Reader("loso-resumed", 80, 60, _resume_loso, resumed, _only(*_PLAN, *_VOTES)),
        Reader("train-resumed", 250, 90, train, trained, _only(f"{last}/*", "run/log.csv"), mend_last),
        Reader("evaluate", 200, 80, evaluate, {"run": _make_evaluate}, _only("run/*"), _mend_checkpoint),
        Reader("predict", 80, 120, predict, {"run": _make_predict}, _only("run/*"), _mend_checkpoint),
    ]


def _make_checkpoint_and_film(made: Path, base: Path) -> None:
    _make_checkpoint(made, base)
    _hold_film(made)
    _remember_flow()
    _rehearse(base, _read_checkpoint)


def _make_evaluate(made: Path, base: Path) -> None:
    _make_checkpoint(made, base)
    _copied("small")(made, base)


def _make_predict(made: Path, base: Path) -> None:
    _make_checkpoint(made, base)
    _copied("film.mp4", "landmarks.csv")(made, base)
    _remember_flow()
    _rehearse(base, partial(command, *_PREDICT.split()))
    shutil.rmtree(base / "prediction")
