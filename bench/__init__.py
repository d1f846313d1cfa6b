"""Measured speed and memory: every contender checked against the reference, then timed in interleaved rounds."""
