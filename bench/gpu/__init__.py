"""A GPU's first minutes: every step in its own process, and every result on the disk as soon as it is there.

python -m bench.gpu OUT --minutes 9        # run the steps, most valuable first
python -m bench.gpu --read OUT [OUT ...]   # the lines as JSON, tables and a list of what to mend first

    steps.py      the steps in their order, each with its limit
    run.py        runs a step: processes, deadlines, restarts after what died or hung
    journal.py    OUT: the lines of results and the steps' output
    worker.py     the side of a step's process: its tasks and their outcomes
    facts.py libraries.py smoke.py timing.py training.py, plugin.py (of pytest)    what the steps run
    pretend.py    stands in for compute-sanitizer with --pretend
    read.py       from lines to a result, tables and what to mend
"""
