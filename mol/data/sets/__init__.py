"""The data sets as they are distributed, one module each, and what reading them has in common."""
