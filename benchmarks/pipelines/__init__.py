"""Every pipeline class of diffusers, built from tiny random parts without a hub, and tried."""
