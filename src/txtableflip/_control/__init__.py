"""
A process tells those who ask, and does what they want.
"""
