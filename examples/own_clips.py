"""Write the table that `mol prepare --dataset generic` reads, for clips sorted into folders.

    python examples/own_clips.py CLIPS
    mol prepare --dataset generic --root CLIPS --out manifests/mine

CLIPS has one folder per class with one folder per person with the clips, each a video file or a folder of frames:

    CLIPS/happiness/anna/clip1.mp4
    CLIPS/happiness/anna/clip2/img001.png …

A clip runs from onset to offset; if yours are longer, fill in the columns onset, apex and offset by hand.
"""

import csv
import sys
from pathlib import Path


def main(clips: Path) -> None:
    """Write CLIPS/clips.csv, one line per clip."""
    with open(clips / "clips.csv", "w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["subject", "clip", "path", "onset", "apex", "offset", "label"])
        for clip in sorted(path for path in clips.glob("*/*/*") if not path.name.startswith(".")):
            label, subject = clip.parent.parent.name, clip.parent.name
            writer.writerow([subject, f"{label}-{clip.stem}", clip.relative_to(clips).as_posix(), "", "", "", label])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
