"""
How the connections of a process that leaves end.
"""
