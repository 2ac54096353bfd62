"""Fixtures of sweeps for the tests of this folder."""

from tests.fedser.reports.sweep.sweeps import sweep_dir  # noqa: F401
