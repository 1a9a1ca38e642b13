"""Recipes and sources: their typed schema, the shipped YAML files and the bundled demo data."""
