"""A campaign against the programs: odd files, kills, full disks and hostile tensors, with counts and reproducers.

    make torture                                    # everything, half an hour on 2 cores
    python -m torture --minutes 5 --only readers    # less of it
    python -m torture --repeat build/torture/failures/FILE.tar.gz

It is no part of `make test`: what it tries is drawn at random. What it finds belongs into a test.

    campaign.py     the units side by side, the table of counts
    unit.py         one unit: what it counts, when it must stop, where failures go
    sandbox.py      one example in a forked process with limits of memory and time
    readers/        files: edits of real ones, and the functions that read them
    kills.py        commands that are killed and run again
    full_disk.py    commands on a file system that fills up
    operators.py    the operators of molkernels beside float64
"""
