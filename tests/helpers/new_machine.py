"""molkernels as in a new process on a new machine: no verdict and no measured time, in memory or in the cache."""

from molkernels import dispatch, trials


def begin_again(monkeypatch):
    """Forget what this process knows; the cache stays."""
    for name, empty in (("_verdicts", {}), ("_read", set()), ("_warned", set())):
        monkeypatch.setattr(trials, name, empty)
    monkeypatch.setattr(dispatch, "_times", {})
    monkeypatch.setattr(dispatch, "_kernels", {})


def know_nothing(monkeypatch, folder):
    """Begin again, with an empty cache in `folder`."""
    monkeypatch.setenv("MOLKERNELS_CACHE", str(folder))
    monkeypatch.delenv("MOLKERNELS_SELF_TEST", raising=False)
    begin_again(monkeypatch)
