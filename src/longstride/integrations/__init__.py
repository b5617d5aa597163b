"""Doors into other people's pipelines."""
