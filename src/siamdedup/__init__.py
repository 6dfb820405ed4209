"""siamdedup: find the same product listed twice in a catalogue of product images.

The tree shows the way of the data; each stage imports only the stages before it:
catalog -> embedding / fingerprint -> verification -> dedup -> report.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("siamdedup")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
