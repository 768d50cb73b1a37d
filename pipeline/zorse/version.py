"""The version of the package, which exports and the wheel name."""

__version__ = "0.1.0"
