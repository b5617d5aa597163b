"""The explorer: samplers of one scene side by side, their runs, their tables, and calibration, by eye.

What is shown is computed by functions that know no page: scene and choices in, pictures, errors and arrays out. The
page (:mod:`longstride.explorer.web`) shows it, and needs the optional package NiceGUI.
"""

from longstride.explorer.scene import Choice, Classical, FromFile, Scene
from longstride.explorer.shelf import Shelf
from longstride.explorer.workbench import Shown, Workbench

__all__ = ["Choice", "Classical", "FromFile", "Scene", "Shelf", "Shown", "Workbench"]
