"""Acceptance of tables: the gate on held-out samples, and the amplification of errors."""
