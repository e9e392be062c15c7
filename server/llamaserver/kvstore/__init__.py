"""The KV store: states of conversations in memory and on disk. The blocks of a prompt's keys find them again.

May import interfaces, files and errors. It knows nothing of requests, slots and scheduling.
"""
