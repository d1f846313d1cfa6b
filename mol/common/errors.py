"""The errors a user can meet. Each message names the thing that is wrong and what to do about it."""


class MOLError(Exception):
    """Base of every error that `mol` raises on purpose; the command line prints it without a traceback."""


class ClipError(MOLError, ValueError):
    """A clip or label that cannot be used: wrong shape, dtype or number of frames, NaN or infinite values."""


class MediaError(MOLError, OSError):
    """An image or video file that cannot be read whole."""


class NotEnoughMemoryError(MOLError, MemoryError):
    """Something that does not fit into memory; the message says how much it needs and how to need less."""


class FaceError(MOLError, ValueError):
    """A picture without exactly one usable face; see its subclasses."""


class NoFaceError(FaceError):
    """The detector found no face."""


class SeveralFacesError(FaceError):
    """The detector found more than one face."""


class DataError(MOLError, ValueError):
    """A data set on disk whose sheets, folders or manifest are not as expected; the message names path and row."""


class CacheError(MOLError, ValueError):
    """A cache folder that is damaged, incomplete or not from this program."""


class CacheSettingsError(CacheError):
    """A cache folder that was made with other settings; the message shows the difference."""


class CheckpointError(MOLError, ValueError):
    """A checkpoint that is damaged, incomplete, not from this program, or of another model."""


class StorageError(MOLError, OSError):
    """A file that could not be written (disk full, no permission); what was there before is untouched."""


class InUseError(MOLError, RuntimeError):
    """A folder that another process is writing; the message names process and machine."""


class SettingsError(MOLError, ValueError):
    """A setting or command-line value that cannot work; the message says what is allowed."""


class NodeError(MOLError, RuntimeError):
    """A node of a cluster that cannot do its part; the message names node and reason."""


class MissingExtraError(MOLError, ImportError):
    """An optional dependency that is not installed; the message contains the command that installs it."""


class RankLostError(MOLError, RuntimeError):
    """A process of a training on several devices has ended; the message says which, why, and how to go on."""


class ExportError(MOLError, RuntimeError):
    """A network that can't be written to a file, or a file that doesn't compute what the network does."""
