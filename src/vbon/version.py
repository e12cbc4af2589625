"""The installed version of vbon."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vbon")
except PackageNotFoundError:  # a source tree on PYTHONPATH that is not installed
    __version__ = "0+unknown"
