"""Loading pretrained models: the bundled garment model, any diffusers folder or hub id, the galaxy networks."""

from longstride.zoo.loading import load_model
from longstride.zoo.model import Model

__all__ = ["Model", "load_model"]
