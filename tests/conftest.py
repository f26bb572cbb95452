"""
What all tests share.
"""

from processes import service

__all__ = ["service"]
