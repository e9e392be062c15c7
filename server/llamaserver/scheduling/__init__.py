"""Which request gets which slot, and what each step evaluates. Pure bookkeeping: no threads, no clock, no HTTP.

May import kvstore, interfaces and errors.
"""
