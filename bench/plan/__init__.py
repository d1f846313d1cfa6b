"""Hours and memory of a leave-one-subject-out run before it is started: `python -m bench.plan --dataset casme2`.

Measurements (bench/results) are used where the device has some. Elsewhere the estimate is the roofline of the device's
datasheet times an assumed share of it. Every figure is marked as measured, datasheet, counted or assumed. The same for
several devices and nodes is a model: folds side by side, one training on all devices, nodes that fail.
`python -m bench.plan --check` compares the same predictions with measurements.
"""
