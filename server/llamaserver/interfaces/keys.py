"""Keys stand for the positions of a prompt: token ids, and hashes where an image stands."""

from array import array

import numpy as np


def common_prefix(left: "array[int]", right: "array[int]") -> int:
    """Length of the common prefix of two key arrays."""
    n = min(len(left), len(right))
    if n == 0 or left[0] != right[0]:
        return 0
    a = np.frombuffer(left, np.int64, n)
    b = np.frombuffer(right, np.int64, n)
    different = a != b
    at = int(different.argmax())
    return at if different[at] else n
