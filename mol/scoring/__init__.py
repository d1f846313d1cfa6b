"""Scores of a network on people that it has never seen, each beside its baseline."""
