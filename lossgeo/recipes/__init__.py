"""Recipes: from YAML to validated, resolved runs."""
