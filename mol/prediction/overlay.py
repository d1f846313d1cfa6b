"""The video that shows what the network saw: landmarks and flow on the picture, probabilities beside it.

Drawn with OpenCV (lines) and Pillow (type, in the font that matplotlib carries), encoded through FFmpeg.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import StorageError
from mol.common.extras import require
from mol.common.storage import write_atomic
from mol.common.terminal import printable
from mol.network.estimates import CROP
from mol.pictures.faces import flow_colours, flow_wheel
from mol.pictures.style import OURS, class_colour
from mol.vision.points import SKELETON

_GROUND, _TRACK, _LIGHT, _DIM = (18, 24, 31), (44, 53, 63), (236, 240, 244), (150, 161, 173)
_PANEL, _STRIP, _PAD = 304, 58, 22
# Time stamps of the overlay video per second; MPEG-4 allows 65535 at most, and the usual rates divide this.
_TICKS = 60000


@dataclass(frozen=True)
class OverlayFrame:
    """One frame of the video and what is known about it.

    Attributes:
        picture: (H, W) uint8.
        time: seconds.
        number: frame number, from 0.
        points: (68, 2) landmarks in picture pixels, or None if no window covers the frame.
        flow: (2, 128, 128) in crop pixels, or None if no window covers the frame or the network estimates none.
        matrix: (2, 3) picture → crop, or None.
        probabilities: (C,) of the window nearest in time, or None.
        verdict: the result of that window in words; by default its most probable class.
    """

    picture: np.ndarray
    time: float
    number: int
    points: np.ndarray | None = None
    flow: np.ndarray | None = None
    matrix: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class OverlayStyle:
    """What stays the same through one overlay video.

    Attributes:
        classes: C names.
        flow_maximum: length of flow, in crop pixels, at full colour; None if the network estimates no flow.
        flow_caption: such as ``"px per 2 frames"``.
        winners: (n, 3) start and end in seconds and winning class of each stretch of the strip below the picture; −1
            for none.
        duration: seconds.
    """

    classes: Sequence[str]
    flow_maximum: float | None
    flow_caption: str
    winners: np.ndarray
    duration: float


def write_overlay(path: Path, frames: Iterable[OverlayFrame], style: OverlayStyle, fps: float) -> None:
    """Draw and encode the overlay video: H.264 if FFmpeg can encode it, else MPEG-4.

    Args:
        path: the ``.mp4`` to write, whole or not at all.
        frames: in the order of time; read once, one at a time.
        style: classes and scales.
        fps: frames per second; each frame is shown at its own time, which may differ from that.
    Raises:
        StorageError: the video could not be written.
    """
    drawn = ((draw_frame(frame, style), frame.time, end) for frame, end in _with_ends(frames, style.duration))
    write_atomic(Path(path), lambda temporary: _encode(temporary, drawn, fps))


def _with_ends(frames: Iterable[OverlayFrame], duration: float) -> Iterator[tuple[OverlayFrame, float]]:
    """Each frame with the time of the next one, and the last with the end of the video."""
    previous = None
    for frame in frames:
        if previous is not None:
            yield previous, frame.time
        previous = frame
    if previous is not None:
        yield previous, duration


def _encode(path: Path, pictures: Iterable[tuple[np.ndarray, float, float]], fps: float) -> None:
    av = require("av", extra="data")
    try:
        # An absolute path: FFmpeg takes a relative one with a colon for an address.
        with av.open(os.path.abspath(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream, ends = None, {}
            for picture, start, end in pictures:
                stream = stream or _add_stream(container, picture.shape, fps)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = round(start * _TICKS), Fraction(1, _TICKS)
                ends[frame.pts] = round(end * _TICKS)
                _mux(container, stream.encode(frame), ends)
            if stream is not None:
                _mux(container, stream.encode(), ends)
    except av.error.FFmpegError as error:
        raise StorageError(
            f"FFmpeg could not encode the overlay video ({error}); run again with --overlay false."
        ) from error


def _mux(container: Any, packets: Iterable[Any], ends: Mapping[int, int]) -> None:
    """Write packets, each shown until its end, by its start."""
    for packet in packets:
        packet.duration = max(ends[packet.pts] - packet.pts, 1)
        container.mux(packet)


def _add_stream(container: Any, shape: tuple[int, ...], fps: float) -> Any:
    """A stream of the best codec that this build of FFmpeg can encode."""
    av = require("av", extra="data")
    rate = Fraction(fps).limit_denominator(1001)
    h264 = _can_encode(av, "libx264")
    stream = container.add_stream("libx264" if h264 else "mpeg4", rate=rate)
    stream.height, stream.width = shape[:2]
    stream.codec_context.time_base = Fraction(1, _TICKS)
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": "18", "preset": "medium"} if h264 else {"qscale": "3"}
    return stream


def _can_encode(av: Any, codec: str) -> bool:
    try:
        return bool(av.codec.Codec(codec, "w").is_encoder)
    except av.codec.codec.UnknownCodecError:
        return False


def draw_frame(frame: OverlayFrame, style: OverlayStyle) -> np.ndarray:
    """Draw one frame.

    Returns:
        (height, width, 3) uint8 RGB, both sides even: the picture enlarged, a panel at its right, a strip below.
    """
    height, width, scale = _picture_extent(frame.picture.shape)
    canvas = np.empty((height + _STRIP, width + _PANEL, 3), np.uint8)
    canvas[:] = _GROUND
    canvas[:height, :width] = _draw_picture(frame, style, height, width, scale)
    _draw_bars(canvas[:height, width:], frame, style)
    if style.flow_maximum is not None:
        _draw_flow_panel(canvas[:height, width:], frame.flow, style.flow_maximum)
    _draw_strip(canvas[height:], frame, style)
    return _write_text(canvas, frame, style, height, width)


def _picture_extent(shape: tuple[int, ...]) -> tuple[int, int, float]:
    """Even (height, width) at which the picture is drawn, and its enlargement."""
    target = min(max(shape[0], 576), 720)
    width = round(shape[1] * target / shape[0] / 2) * 2
    return target // 2 * 2, max(width, 2), target / shape[0]


def _draw_picture(frame: OverlayFrame, style: OverlayStyle, height: int, width: int, scale: float) -> np.ndarray:
    """The picture with flow as a tint, landmarks as lines and the square that the network sees."""
    cv2 = require("cv2", extra="data")
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    grey = cv2.resize(frame.picture, (width, height), interpolation=method)
    drawn = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    if frame.matrix is None or frame.points is None:
        return drawn
    # Pixel centres at integers on both sides: canvas x stands for picture x' = (x + 0.5) / scale − 0.5.
    shrink = np.array([[1 / scale, 0, 0.5 / scale - 0.5], [0, 1 / scale, 0.5 / scale - 0.5], [0, 0, 1]])
    to_crop = frame.matrix @ shrink
    if frame.flow is not None and style.flow_maximum is not None:
        drawn = _tint(drawn, frame.flow, to_crop, style.flow_maximum)
    _outline_crop(drawn, to_crop, CROP)
    _draw_face(drawn, (frame.points + 0.5) * scale - 0.5, 2 if scale > 2 else 1)
    return drawn


def _tint(picture: np.ndarray, flow: np.ndarray, to_crop: np.ndarray, maximum: float) -> np.ndarray:
    """Colour the picture by direction of flow, as strongly as it is long."""
    cv2 = require("cv2", extra="data")
    height, width = picture.shape[:2]
    size = flow.shape[-1]
    length = np.hypot(*flow)
    # The hue shows the direction in the picture; the crop is rotated against it.
    turned = np.einsum("ij,jyx->iyx", np.linalg.inv(to_crop[:, :2]), flow)
    hue = flow_colours(turned / np.maximum(np.hypot(*turned), 1e-9), 1.0001)
    strength = (0.62 * np.clip(length / maximum, 0, 1) * _feather(size)).astype(np.float32)
    layer = np.concatenate([hue.astype(np.float32) * strength[..., None], strength[..., None]], axis=-1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(layer, to_crop, (width, height), flags=flags)
    return np.clip(picture * (1 - warped[..., 3:]) + warped[..., :3], 0, 255).astype(np.uint8)


@cache
def _feather(size: int) -> np.ndarray:
    """Weight 1 inside, falling to 0 over the outermost twelfth, so that the tint has no hard edge."""
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) / (size / 12)
    return np.clip(np.minimum.outer(edge, edge), 0, 1)


def _outline_crop(picture: np.ndarray, to_crop: np.ndarray, size: int) -> None:
    cv2 = require("cv2", extra="data")
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]]) - 0.5
    back = cv2.invertAffineTransform(to_crop)
    outline = corners @ back[:, :2].T + back[:, 2]
    cv2.polylines(picture, [_subpixel(outline)], True, _LIGHT, 1, cv2.LINE_AA, shift=4)


def _draw_face(picture: np.ndarray, points: np.ndarray, thickness: int) -> None:
    """The 68 points as the chains of the face, orange over a dark halo."""
    cv2 = require("cv2", extra="data")
    for colour, width in (((20, 20, 20), thickness + 2), (_rgb(OURS), thickness)):
        for chain in SKELETON:
            cv2.polylines(picture, [_subpixel(points[list(chain)])], False, colour, width, cv2.LINE_AA, shift=4)


def _subpixel(points: np.ndarray) -> np.ndarray:
    """Points as OpenCV's fixed-point integers with four fractional bits."""
    return np.round(points * 16).astype(np.int32).reshape(-1, 1, 2)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _bar_rows(classes: Sequence[str]) -> list[int]:
    """Tops of the class rows in the panel; rows shrink where there are many classes."""
    step = min(36, 216 // len(classes))
    return [74 + step * index for index in range(len(classes))]


def _draw_bars(panel: np.ndarray, frame: OverlayFrame, style: OverlayStyle) -> None:
    left, right = _PAD, panel.shape[1] - _PAD
    for index, top in enumerate(_bar_rows(style.classes)):
        panel[top + 18 : top + 25, left:right] = _TRACK
        if frame.probabilities is not None:
            end = left + round(float(frame.probabilities[index]) * (right - left))
            panel[top + 18 : top + 25, left:end] = _lighter(class_colour(index))


def _lighter(colour: str) -> tuple[int, int, int]:
    """A class's hue, raised a little for the dark ground."""
    red, green, blue = (round(0.82 * value + 0.18 * 255) for value in _rgb(colour))
    return red, green, blue


def _flow_box(panel: np.ndarray) -> tuple[int, int, int]:
    """(top, left, side) of the flow picture in the panel."""
    side = min(214, panel.shape[0] - 352)
    return panel.shape[0] - side - _PAD, _PAD, side


def _draw_flow_panel(panel: np.ndarray, flow: np.ndarray | None, maximum: float) -> None:
    cv2 = require("cv2", extra="data")
    top, left, side = _flow_box(panel)
    box = panel[top : top + side, left : left + side]
    if flow is None:
        box[:] = _TRACK
    else:
        colours = flow_colours(flow, maximum)
        box[:] = cv2.resize(colours, (side, side), interpolation=cv2.INTER_LINEAR)
    wheel = flow_wheel(46)
    corner = panel[top : top + 46, left + side + 10 : left + side + 56]
    alpha = wheel[..., 3:] / 255
    corner[:] = np.round(corner * (1 - alpha) + wheel[..., :3] * alpha)


def _draw_strip(strip: np.ndarray, frame: OverlayFrame, style: OverlayStyle) -> None:
    """The whole video as a line coloured by the winning class, with a cursor at this frame."""
    left, right = _PAD, strip.shape[1] - _PAD
    span = (right - left) / max(style.duration, 1e-6)
    strip[24:34, left:right] = _TRACK
    for start, end, winner in style.winners[style.winners[:, 2] >= 0]:
        strip[24:34, left + round(start * span) : left + round(end * span)] = _lighter(class_colour(int(winner)))
    cursor = min(left + round(frame.time * span), right - 2)
    strip[18:40, cursor - 1 : cursor + 2] = _LIGHT


@cache
def _font(size: int, bold: bool = False) -> Any:
    matplotlib = require("matplotlib", extra="report")
    fonts = require("PIL.ImageFont", extra="report")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return fonts.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def _write_text(canvas: np.ndarray, frame: OverlayFrame, style: OverlayStyle, height: int, width: int) -> np.ndarray:
    images = require("PIL.Image", extra="report")
    drawing = require("PIL.ImageDraw", extra="report")
    image = images.fromarray(canvas)
    draw = drawing.Draw(image)
    left, right = width + _PAD, width + _PANEL - _PAD
    _write_probabilities(draw, frame, style, left, right)
    top, _, side = _flow_box(canvas[:height, width:])
    draw.text((left, top - 27), "Optical flow", _LIGHT, _font(14, True))
    if style.flow_maximum is None:
        draw.text((left, top), "not estimated by this network", _DIM, _font(11))
    else:
        draw.text((left + side + 10, top + 54), f"{style.flow_maximum:.2g} px", _DIM, _font(11))
        draw.text((right, top - 24), style.flow_caption, _DIM, _font(11), anchor="ra")
    draw.text((_PAD, height + _STRIP - 8), "0 s", _DIM, _font(11), anchor="ls")
    draw.text((right, height + _STRIP - 8), f"{style.duration:.1f} s", _DIM, _font(11), anchor="rs")
    stamp = f"{frame.time:.2f} s   frame {frame.number}"
    draw.text((14, 12), stamp, _LIGHT, _font(14), stroke_width=2, stroke_fill=(20, 20, 20))
    return np.asarray(image)


def _shown(name: str) -> str:
    return printable(name.replace("_", " "))


def _write_probabilities(draw: Any, frame: OverlayFrame, style: OverlayStyle, left: int, right: int) -> None:
    if frame.probabilities is None:
        draw.text((left, 24), "not read", _DIM, _font(22, True))
        winner = -1
    else:
        most_probable = int(np.argmax(frame.probabilities))
        heading = frame.verdict or style.classes[most_probable]
        winner = most_probable if heading == style.classes[most_probable] else -1
        draw.text((left, 24), _shown(heading), _LIGHT, _font(22, True))
    for index, top in enumerate(_bar_rows(style.classes)):
        ink, font = (_LIGHT, _font(12, True)) if index == winner else (_DIM, _font(12))
        draw.text((left, top + 14), _shown(style.classes[index]), ink, font, anchor="ls")
        if frame.probabilities is not None:
            draw.text((right, top + 14), f"{frame.probabilities[index]:.2f}", ink, font, anchor="rs")
