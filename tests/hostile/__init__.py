"""Inputs made by an attacker."""
