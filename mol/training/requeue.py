"""Slurm puts a job that it has ended back into the queue, if asked in time."""

from __future__ import annotations

import os
import shutil
import subprocess

from mol.common.signals import ignore_stop_signals

REQUEUED = ("SIGUSR1", "SIGUSR2")
"""Signals of ``#SBATCH --signal``. SIGTERM is that of scancel, after which a job must not come back, and of a
pre-emption, after which Slurm queues the job by itself."""

_SECONDS = 30


def requeue() -> str:
    """Ask Slurm to run this job again once it has ended.

    Returns:
        What came of it, in a sentence.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "requeue: this is no Slurm job; the training goes on when the command above is run"
    if "SLURM_ARRAY_JOB_ID" in os.environ and "SLURM_ARRAY_TASK_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    program = shutil.which("scontrol")
    if program is None:
        return f"requeue: job {job} can't be requeued, because scontrol is not on the PATH of this node"
    ignore_stop_signals()  # Slurm ends the job before it queues it, and everything is saved
    try:
        asked = subprocess.run([program, "requeue", job], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"requeue: job {job} can't be requeued: {error}"
    if asked.returncode:
        return f"requeue: Slurm refused to requeue job {job}: {asked.stderr.strip() or asked.returncode}"
    return f"requeue: job {job} is in the queue again"
