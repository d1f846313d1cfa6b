"""Everything is declared in pyproject.toml; compiled kernels (csrc/) will be built from here."""

from setuptools import setup

setup()
