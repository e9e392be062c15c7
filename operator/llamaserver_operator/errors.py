"""The errors of the operator.

InvalidSpec         an object that cannot be served; the message begins with the field's path
ConfigError         a wrong option or variable, or a port that is in use
ClusterError        a request to the API server failed
├── Forbidden       403: a missing permission, a full quota, a namespace that is being deleted
│   └── WebhookFailed   500: a required admission webhook does not answer
├── NotFound        404: the object, its namespace or its kind does not exist
├── Conflict        409: another writer was faster, or the object was replaced
├── Invalid         400, 422: the API server refuses the content
│   └── TooLarge    the answer is longer than the operator reads
├── Unreachable     no answer, or an answer that may change on a retry (429, 5xx)
└── NotLeading      not sent, because this instance does not hold the Lease
"""


class InvalidSpec(Exception):
    """The spec is wrong. The message begins with the path of the field."""


class ConfigError(Exception):
    """The operator cannot run with these options and variables."""


class ClusterError(Exception):
    """A request to the API server failed. The text is the message of the API server."""


class Forbidden(ClusterError):
    """The operator is not allowed to do that."""


class WebhookFailed(Forbidden):
    """An admission webhook does not answer. The API server itself works."""


class NotFound(ClusterError):
    """The object, its namespace or its kind does not exist."""


class Conflict(ClusterError):
    """Another writer was faster."""


class Invalid(ClusterError):
    """The API server refuses the content."""


class TooLarge(Invalid):
    """The answer is longer than the operator reads."""


class Unreachable(ClusterError):
    """No usable answer. A retry may succeed."""


class NotLeading(ClusterError):
    """The request was not sent, because another instance may be active."""
