"""Kubernetes quantities, such as 20Gi, as numbers."""

import math
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity


def bytes_of(text: str) -> int:
    """A quantity in whole bytes, rounded up as Kubernetes does; ValueError when it is none."""
    value: Decimal = parse_quantity(text)  # type: ignore[no-untyped-call]
    return math.ceil(value)


def mebibytes_of(text: str) -> int:
    """A quantity in whole MiB, rounded down."""
    return bytes_of(text) // 2**20
