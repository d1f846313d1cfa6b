"""Small data sets for extraction: three people of the ORL set in motion, and ways to damage them."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from data_fixtures import dlib_detector

from mol.data.extract.settings import ExtractConfig
from mol.data.manifest import Clip, Manifest, write_manifest
from mol.synth.clip_plan import SynthSettings, plan_clips
from mol.synth.faces import load_faces
from mol.synth.render import render_video
from mol.vision.tvl1 import TVL1Settings

QUICK = TVL1Settings(scales=2, warps=1, inner_iterations=5, outer_iterations=2)


FIRST = 46


@cache
def videos() -> list[np.ndarray]:
    """Three people of the ORL set in motion, 17 frames each."""
    settings = SynthSettings(people=3, pictures=1, clips=1, length=(17, 17), seed=3)
    faces = load_faces(people=3, pictures=1, detector=dlib_detector())
    return [render_video(plan, faces[plan.face], settings) for plan in plan_clips(faces, settings)]


def write_pictures(folder: Path, frames: np.ndarray, first: int = FIRST) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, first):
        assert cv2.imwrite(str(folder / f"reg_img{number}.png"), frame)


def made_clip(subject: int, length: int, emotion: str = "happiness") -> Clip:
    last = FIRST + length - 1
    where = f"pictures/sub{subject:02d}/EP01"
    return Clip("casme2", f"sub{subject:02d}", "EP01", where, FIRST, FIRST + 4, last, emotion, "6+12", 200.0, "row 2")


def make_set(root: Path, lengths: tuple[int, ...] = (17, 8, 9)) -> Path:
    """A manifest of one clip a person; its pictures go a little beyond the annotated frames."""
    clips = []
    for subject, (length, video) in enumerate(zip(lengths, videos(), strict=False), 1):
        clips.append(made_clip(subject, length, ("happiness", "disgust", "surprise")[subject - 1]))
        write_pictures(root / clips[-1].path, video)
    write_manifest(root / "manifest", Manifest("casme2", root, clips))
    return root / "manifest"


def config_of(manifest: Path, out: str = "cache", **settings) -> ExtractConfig:
    settings = {"workers": 1, "tvl1": QUICK, **settings}
    return ExtractConfig(manifest=str(manifest), out=str(manifest.parent / out), **settings)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def second_folder(manifest: Path) -> Path:
    return manifest.parent / "pictures" / "sub02" / "EP01"


def landmark_files(folder: Path, points: dict[tuple[str, str], np.ndarray], first: int = FIRST) -> list[Path]:
    """The same landmarks as CSV and as NPZ."""
    arrays, lines = {}, ["subject,clip,frame," + ",".join(f"x_{i},y_{i}" for i in range(68))]
    for (subject, clip), of_clip in points.items():
        arrays[f"{subject}/{clip}"] = of_clip
        arrays[f"{subject}/{clip}/frames"] = np.arange(first, first + len(of_clip))
        for number, of_frame in enumerate(of_clip, first):
            values = ("" if np.isnan(value) else repr(float(value)) for value in of_frame.ravel())
            lines.append(",".join([subject, clip, str(number), *values]))
    (folder / "points.csv").write_text("\n".join(lines))
    np.savez(folder / "points.npz", **arrays)
    return [folder / "points.csv", folder / "points.npz"]


# Damage


def truncate(folder: Path) -> None:
    path = folder / "reg_img48.png"
    path.write_bytes(path.read_bytes()[:2000])


def without_face(folder: Path) -> None:
    hide_faces(folder, range(49, 54))


def hide_faces(folder: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        assert cv2.imwrite(str(folder / f"reg_img{number}.png"), np.full(videos()[1].shape[1:], 90, np.uint8))


def two_faces(folder: Path) -> None:
    for path in folder.iterdir():
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), np.concatenate([picture, picture], axis=1))


def other_size(folder: Path) -> None:
    path = folder / "reg_img50.png"
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[2:])


def remove(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def cut_off(folder: Path) -> None:
    for number in range(53, FIRST + 17):
        (folder / f"reg_img{number}.png").unlink()


def name_twice(folder: Path) -> None:
    (folder / "copy_of_48.png").write_bytes((folder / "reg_img48.png").read_bytes())


FAULTS = [
    (truncate, r"reg_img48\.png: the PNG breaks off"),
    (without_face, r"no face found in .*sub02/EP01/reg_img49\.png"),
    (two_faces, r"2 faces found in .*reg_img46\.png.*take the largest"),
    (other_size, r"reg_img50\.png is 276×334 pixels and reg_img46\.png is 276×336"),
    (remove, r"sub02/EP01 does not exist"),
    (cut_off, r"has the frames 46–52, but the annotation is for 46–53; unpack the missing frames"),
    (name_twice, r"copy_of_48\.png and reg_img48\.png .* same frame number 48"),
]
