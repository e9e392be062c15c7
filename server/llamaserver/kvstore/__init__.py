"""The KV store: states of conversations in memory and on disk, found again by the blocks of their keys.

May import interfaces, files and errors. It knows nothing of requests, slots and scheduling.
"""
