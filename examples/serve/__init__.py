"""A picture service with a canary: FastAPI around a model, a roll-out and the live reference."""
