"""Benchmarks that write their own tables: ``longstride bench paper | ablations``."""
