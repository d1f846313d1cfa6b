"""A cache: one aligned data set as a folder of memory-mapped arrays, an index, and a record of what shaped it.

    settings.json   format, kind, frames, size, classes, settings, versions
    index.json      one entry per row: data set, subject, clip, start, interval, label, emotion, …
    frames.npy      (n, T, S, S) uint8
    flow.npy        (n, T − 1, 2, S, S) float16, (dx, dy) in pixels from frame t to t + 1
    landmarks.npy   (n, T, 68, 2) float32, (x, y) in pixels
    checksums.npy   (n,) uint64, 1 + CRC-32 of the row's three arrays; 0 while the row is not written
    skipped.json    only if clips were left out: their data set, subject, clip and the reason
    interpolated.json   only if landmarks were interpolated where no face was found: the clips and the frames' numbers

The folder is built as ``<path>.partial`` and renamed once all rows are written. Nothing is pickled.
"""

from mol.data.cache.clip_set import ClipSet, Video, video_of
from mol.data.cache.format import CacheSettings, row_bytes
from mol.data.cache.reader import Cache
from mol.data.cache.writer import CacheWriter, sole_cache_writer

__all__ = ["Cache", "CacheSettings", "CacheWriter", "ClipSet", "Video", "row_bytes", "sole_cache_writer", "video_of"]
