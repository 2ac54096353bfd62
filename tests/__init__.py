"""Tests: folders and files mirror those of the package."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""Of the repository."""
