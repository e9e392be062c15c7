"""Kubernetes quantities, such as 20Gi, as numbers."""

import math
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity


def bytes_of(text: str) -> int:
    """A quantity in bytes, rounded up as Kubernetes does. ValueError when the text is not a quantity."""
    value: Decimal = parse_quantity(text)  # type: ignore[no-untyped-call]
    return math.ceil(value)


def mebibytes_of(text: str) -> int:
    """A quantity in MiB, rounded down."""
    return bytes_of(text) // 2**20
