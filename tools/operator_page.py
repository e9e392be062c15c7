"""The reference page of the operator's command line and metrics: `python -m tools.operator_page` prints it."""

from llamaserver_operator.config import options
from llamaserver_operator.metrics import Metrics

_HEAD = """# Operator

Made by `python -m tools.operator_page`. `make generate` writes it.

## Options

The chart sets these options from its values. Each option can also be set by its variable. An option on the command line
overrides its variable.

| option | default | environment | meaning |
|---|---|---|---|"""
_METRICS = """
## Metrics

`GET /metrics` on the health port. Metrics of the model servers are in [Metrics](metrics.md).

| name | type | labels | meaning |
|---|---|---|---|"""


def markdown() -> str:
    """The page."""
    lines = [_HEAD]
    for flag, default, variable, text in options():
        lines.append(f"| `--{flag}` | {f'`{default}`' if default else ''} | `{variable}` | {text} |")
    lines.append(_METRICS)
    metrics = Metrics()
    labels = {item._name: item._labelnames for item in vars(metrics).values() if hasattr(item, "_labelnames")}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        names = ", ".join(f"`{label}`" for label in labels[family.name])
        lines.append(f"| `{name}` | {family.type} | {names} | {family.documentation} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
