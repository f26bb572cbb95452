"""
How the connections of a process that exits end.
"""
