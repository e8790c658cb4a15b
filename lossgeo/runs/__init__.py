"""Runs: one resolved recipe, its folder, and the work on it."""
