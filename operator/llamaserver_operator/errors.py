"""Every error the operator raises on purpose.

InvalidSpec         an object that cannot be served; the message begins with the field's path
ConfigError         a command line or environment that the operator cannot run with
ClusterError        the API server did not do what it was asked
├── Forbidden       403: a missing permission, a quota, a namespace that is ending
│   └── WebhookFailed   500: an admission webhook that has to be asked does not answer
├── NotFound        404 where an object was expected: its namespace, or its kind, is not there
├── Conflict        409: another writer was faster, or the object is another one by now
├── Invalid         400, 422: the API server refuses the content
├── Unreachable     no answer, or one that may be another the next time (429, 5xx)
└── NotLeading      not sent: this instance does not hold the Lease (any more)
"""


class InvalidSpec(Exception):
    """The object cannot be served as it is; the message names the field."""


class ConfigError(Exception):
    """The command line or the environment cannot be used."""


class ClusterError(Exception):
    """A request to the API server failed; the text is the server's own message."""


class Forbidden(ClusterError):
    """The operator may not do that."""


class WebhookFailed(Forbidden):
    """Somebody's admission webhook is broken; the API server is not."""


class NotFound(ClusterError):
    """What the request is about does not exist."""


class Conflict(ClusterError):
    """Another writer was faster."""


class Invalid(ClusterError):
    """The API server refuses the content."""


class Unreachable(ClusterError):
    """No usable answer; trying again later makes sense."""


class NotLeading(ClusterError):
    """The request was held back, since another instance may be active."""
