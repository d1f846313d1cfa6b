"""Upright square faces of one size: one similarity transform from the picture to the aligned frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mol.common.errors import ClipError, FaceError
from mol.common.extras import require
from mol.vision.points import LEFT_EYE, RIGHT_EYE

_NOSE_TIP, _RIGHT_MOUTH_CORNER, _LEFT_MOUTH_CORNER = 30, 48, 54


@dataclass(frozen=True)
class AlignSettings:
    """How faces are aligned.

    Attributes:
        size: side of the aligned frame in pixels.
        enlarge: side of the frame's box divided by the larger side of the box around eyes, nose tip and mouth corners.
        per: ``"clip"`` moves all frames by one transform, so that the detector's jitter does not become motion;
            ``"frame"`` takes each frame's own landmarks, as the released code does.
    """

    size: int = 144
    enlarge: float = 2.5
    per: Literal["clip", "frame"] = "clip"


def alignment_matrix(points: np.ndarray, settings: AlignSettings | None = None) -> np.ndarray:
    """Similarity transform that levels the eyes and fits the face into the aligned frame.

    The picture is turned so that the line through the eye centres is level; the square around both eye centres,
    the nose tip and the mouth corners, enlarged, becomes the frame.

    Args:
        points: (68, 2), (x, y) pixels of the picture.
        settings: size and enlargement.
    Returns:
        (2, 3) float64 M with ``aligned = M @ (x, y, 1)``, pixel centres at integers on both sides.
    Raises:
        FaceError: the points are not (68, 2), not finite, or the eyes coincide.
    """
    settings = settings or AlignSettings()
    points = np.asarray(points, np.float64)
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise FaceError(f"alignment needs 68 finite (x, y) points, got {points.shape} with NaN or infinite values.")
    places = alignment_anchors(points)
    right_eye, left_eye = places[:2]
    distance = np.linalg.norm(left_eye - right_eye)
    if distance < 1e-3:
        raise FaceError("both eyes have the same landmarks; the face cannot be aligned. Leave this frame out.")
    cosine, sine = (left_eye - right_eye) / distance
    level = np.array([[cosine, sine], [-sine, cosine]])
    turned = places @ level.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale = settings.size / (settings.enlarge * (high - low).max())
    offset = (settings.size - 1) / 2 - scale * (low + high) / 2
    return np.concatenate([scale * level, offset[:, None]], axis=1)


def alignment_anchors(points: np.ndarray) -> np.ndarray:
    """What faces are aligned by: (5, 2) both eye centres, the nose tip and the mouth corners of (68, 2) landmarks."""
    eyes = [points[RIGHT_EYE].mean(axis=0), points[LEFT_EYE].mean(axis=0)]
    return np.stack([*eyes, *points[[_NOSE_TIP, _RIGHT_MOUTH_CORNER, _LEFT_MOUTH_CORNER]]])


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a (2, 3) affine matrix to (..., 2) points; returns the dtype of the points."""
    moved: np.ndarray = points @ matrix[:, :2].T + matrix[:, 2]
    return moved.astype(points.dtype)


def warp_picture(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Resample a picture into the aligned frame: bilinear, edge pixels repeated outside the picture.

    Pictures more than twice as large as the frame are first averaged over k×k blocks, because bilinear sampling
    alone would skip pixels and turn texture into flicker.

    Args:
        picture: (H, W) uint8.
        matrix: (2, 3) picture → aligned.
        size: side of the result.
    Returns:
        (size, size) uint8.
    """
    cv2 = require("cv2", extra="data")
    block = int(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if block > 1:
        height, width = (extent // block * block for extent in picture.shape)
        picture = cv2.resize(picture[:height, :width], (width // block, height // block), interpolation=cv2.INTER_AREA)
        # Block p covers the pixels p·k … p·k + k − 1, so its centre lies at p·k + (k − 1)/2.
        centre = matrix[:, :2] @ np.full(2, (block - 1) / 2)
        matrix = np.concatenate([matrix[:, :2] * block, (matrix[:, 2] + centre)[:, None]], axis=1)
    warped: np.ndarray = cv2.warpAffine(
        picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return warped


def align_clip(
    frames: np.ndarray, points: np.ndarray, settings: AlignSettings | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Align the frames of a clip and its landmarks.

    Args:
        frames: (T, H, W) uint8.
        points: (T, 68, 2), pixels of the frames.
        settings: size, enlargement, one transform per clip (of the median landmarks) or per frame.
    Returns:
        frames (T, size, size) uint8, points (T, 68, 2) float32, matrices (T, 2, 3) float64 original → aligned.
    Raises:
        ClipError: the shapes of frames and points do not fit.
        FaceError: landmarks that are not finite, or degenerate.
    """
    settings = settings or AlignSettings()
    if frames.ndim != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ClipError(f"frames must be (T, H, W) uint8 with T ≥ 1, got {frames.shape} {frames.dtype}.")
    if points.shape != (len(frames), 68, 2):
        raise ClipError(f"{len(frames)} frames need landmarks of shape ({len(frames)}, 68, 2), got {points.shape}.")
    if settings.per == "clip":
        matrix = alignment_matrix(np.median(points, axis=0), settings)
        matrices = np.repeat(matrix[None], len(frames), axis=0)
    else:
        matrices = np.stack([alignment_matrix(frame_points, settings) for frame_points in points])
    pairs = zip(frames, matrices, strict=True)
    aligned = np.stack([warp_picture(frame, matrix, settings.size) for frame, matrix in pairs])
    moved = np.einsum("tij,tpj->tpi", matrices[:, :, :2], points) + matrices[:, None, :, 2]
    return aligned, moved.astype(np.float32), matrices
