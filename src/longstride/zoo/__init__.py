"""Loading pretrained models: the bundled garment model, any diffusers folder or hub id, the galaxy networks."""

from longstride.zoo.model import Model, load_model

__all__ = ["Model", "load_model"]
