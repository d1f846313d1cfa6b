"""From a manifest to a cache: ``mol extract``.

Modules:

    settings   what can be set
    frames     which frames of a clip go into the cache, from file names alone
    clip       one clip: read, detect, align, TV-L1
    work       the clips of a manifest and the rows of the cache that they give
    cluster    clips as tasks on a Ray cluster
    run        the extraction itself, in several processes or on a cluster
    result     what an extraction produced
    estimate   how long it would take, and how much space
    report     what the command prints
"""

from mol.data.extract.run import extract, run_extract
from mol.data.extract.settings import ExtractConfig

__all__ = ["ExtractConfig", "extract", "run_extract"]
