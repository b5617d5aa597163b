"""Which tables are accepted: the gate on held-out noise, and how much a table amplifies errors."""
