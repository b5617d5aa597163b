"""Reference solutions: their last states, and their states at any level."""
