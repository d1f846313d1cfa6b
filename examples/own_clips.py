"""Turn a folder of your own clips into a cache for `mol train`.

    python examples/own_clips.py CLIPS CACHE

CLIPS holds a folder a class, in it a folder a person, in it the clips, each a video file or a folder of frames:

    CLIPS/happiness/anna/clip1.mp4
    CLIPS/happiness/anna/clip2/img001.png …

A clip goes from onset to offset. Eight frames at equal intervals are kept, once for each start that this leaves;
the face is found by dlib, aligned by one similarity transform a clip, and the flow between kept frames is TV-L1's.
"""

import sys
from pathlib import Path

from mol.data.align import AlignSettings, align_clip
from mol.data.cache import CacheSettings, CacheWriter
from mol.data.flow import TVL1Settings, tvl1_flow
from mol.data.landmarks import DlibDetector, landmarks_of_frames
from mol.data.video import read_video, sample_starts
from mol.environment import versions

FRAMES = 8


def main(clips: Path, cache: Path) -> None:
    """Write the cache; run it again to go on after an interruption."""
    classes = sorted(folder.name for folder in clips.iterdir() if folder.is_dir())
    rows = []
    for label, emotion in enumerate(classes):
        for clip in sorted((clips / emotion).glob("*/*")):
            interval, starts = sample_starts(len(read_video(clip)), FRAMES)
            for start in starts:
                row = {"dataset": clips.name, "subject": clip.parent.name, "clip": f"{emotion}/{clip.name}"}
                rows.append({**row, "start": start, "interval": interval, "label": label, "emotion": emotion})
    settings = CacheSettings("extracted", tuple(classes), {"clips": str(clips)}, versions())
    detector = DlibDetector()
    with CacheWriter(cache, settings, rows) as writer:
        for i in writer.pending():
            row = rows[i]
            video = read_video(clips / row["emotion"] / row["subject"] / row["clip"].split("/")[1])
            kept = slice(row["start"], None, row["interval"])
            frames, names = video.frames[kept][:FRAMES], video.names[kept][:FRAMES]
            points = landmarks_of_frames(frames, detector, names)
            frames, points, _ = align_clip(frames, points, AlignSettings())
            writer.write(i, frames, tvl1_flow(frames, TVL1Settings()), points)
            print(f"{i + 1}/{len(rows)} {row['subject']} {row['clip']} from frame {row['start']}")
        writer.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
