"""
How this program was started, how it is started again, and how two instances of it share a
machine.
"""
