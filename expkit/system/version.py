"""The version of expkit, as files, reports and `expkit --version` name it."""

__version__ = "0.1.0"
