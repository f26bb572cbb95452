"""
What is inherited: the sockets and files of this process, and the ports on them.
"""
