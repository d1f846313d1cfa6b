"""Clips of real faces under exactly known motion: a cache, or a data set's own folders and sheets."""
