"""Fixtures of sweeps for the tests of this folder."""

from tests.fedser.reports.paper.tables import add_run, comparison_dir  # noqa: F401
