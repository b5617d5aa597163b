"""Benchmarks that write their own tables: ``python -m benchmarks paper | peers | newton | pages``."""
