"""Longstride's samplers inside other libraries: diffusers, k-diffusion, and what is built on them."""
