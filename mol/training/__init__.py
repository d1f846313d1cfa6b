"""Training on one split of the people: settings, loop, log and ablations."""
