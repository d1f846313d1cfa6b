"""Clips of real faces with exactly known motion: a cache, or a data set's own folders and sheets."""
