"""Inputs made by somebody who means harm."""
