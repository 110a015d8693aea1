"""Onward: durable workflows for Python that run on your own AWS account."""

__version__ = "0.1.0"
