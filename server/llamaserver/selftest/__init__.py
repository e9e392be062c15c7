"""The command `llamaserver selftest`: it tests that each CPU module of this build computes the same.

May import everything but the API and the engine.
"""
