"""
How two processes, a parent and its child, talk with each other.
"""
