"""lossgeo: a laboratory for the geometry of loss landscapes, run from the command line."""

__version__ = "0.1.0"
