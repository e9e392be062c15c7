"""What the packages share: the Backend protocol, the parameters of a request, the events of an answer.

May import errors only.
"""
