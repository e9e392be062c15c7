"""Which request gets which slot, and what each step evaluates. It has no threads, no clock and no HTTP.

May import kvstore, interfaces and errors.
"""
