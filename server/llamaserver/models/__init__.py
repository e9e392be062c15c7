"""Model files: their sources, their download, their checks, and the cache that pods share.

May import config, the readers of options, logs, termination, files and errors.
"""
