"""
Answers the C{tableflip} command and notifies supervisors.
"""
