"""
How connections outlive the process that has accepted them.
"""
