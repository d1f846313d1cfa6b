"""A Slurm job that is ended asks to be run again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from mol.training.requeue import requeue

# In a process of its own, because stop signals are ignored afterwards.
_ASK = "from mol.training.requeue import requeue; print(requeue())"


def ask(folder: Path, code: int, **environment: str) -> str:
    """What it says where `scontrol` notes how it was called and ends with a code."""
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/called\necho "Job has no requeue" >&2\nexit {code}\n')
    program.chmod(0o755)
    asked = subprocess.run(
        [sys.executable, "-c", _ASK],
        env={"PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return asked.stdout.strip()


def test_the_job_is_named_to_slurm(tmp_path):
    assert ask(tmp_path, 0, SLURM_JOB_ID="17") == "requeue: job 17 is in the queue again"
    assert (tmp_path / "called").read_text().split() == ["requeue", "17"]


def test_of_an_array_only_the_one_task_is_named(tmp_path):
    task = {"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "4"}
    assert ask(tmp_path, 0, **task) == "requeue: job 17_4 is in the queue again"
    assert (tmp_path / "called").read_text().split() == ["requeue", "17_4"]


def test_a_refusal_is_told(tmp_path):
    assert ask(tmp_path, 1, SLURM_JOB_ID="17") == "requeue: Slurm refused to requeue job 17: Job has no requeue"


def test_outside_slurm_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue() == "requeue: this is no Slurm job; the training goes on when the command above is run"
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PATH", "/nowhere")
    assert requeue() == "requeue: job 17 can't be requeued, because scontrol is not on the PATH of this node"
