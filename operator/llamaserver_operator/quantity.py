"""Kubernetes quantities, such as 20Gi, as numbers."""

from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity


def bytes_of(text: str) -> int:
    """A quantity in whole bytes, rounded down; ValueError when it is none."""
    value: Decimal = parse_quantity(text)  # type: ignore[no-untyped-call]
    return int(value)
