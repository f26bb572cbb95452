"""
How this program was started, how it is started again, and how two of it share a machine.
"""
