"""Every error that the server raises on purpose.

ServerError                 code, type and message of one API error
├── InvalidRequest          400  the request is wrong; names the field
│   ├── ContextExceeded     400  the prompt is longer than the slot, and may not be cut
│   └── TemplateRefusal     400  the chat template does not take these messages
├── Unauthorized            401
├── Forbidden           403  the client may not do this
├── NotFound                404
├── InsufficientStorage     507  the slot files take as much room as they may
├── NotSupported            501  the endpoint or feature is switched off
├── Unavailable             503  loading, draining, queue full
│   └── RateLimited         429  the API key has reached a limit of its own
├── EngineFailure           500  the engine could not finish the request
├── TemplateFailure         500  the chat template is at fault
└── HttpFailure             any  the HTTP server refuses the request
ConfigError                 the command line or the environment is wrong
EngineLost                  the engine cannot go on
ModelLoadError              the model (or adapter, projector) cannot be loaded
├── TemplateInvalid         its chat template cannot be used
└── DownloadError           it cannot be downloaded; `reason` is one word for programs
"""

from enum import StrEnum
from typing import Any, Self


class Reason(StrEnum):
    """Why a container ended, in one word of the termination log. The operator knows all of them."""

    BAD_ARGUMENTS = "BadArguments"
    TEMPLATE_INVALID = "TemplateInvalid"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    MODEL_NOT_FOUND = "ModelNotFound"
    UNAUTHORIZED = "Unauthorized"
    SOURCE_NOT_ALLOWED = "SourceNotAllowed"
    NOT_GGUF = "NotGGUF"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    DISK_FULL = "DiskFull"
    DOWNLOAD_FAILED = "DownloadFailed"
    BAD_SPEC = "BadSpec"
    ENGINE_FAILED = "EngineFailed"


class ServerError(Exception):
    """An error in OpenAI's format. `field` is the field at fault. `extra` are further members of the error object."""

    status: int = 500
    kind: str = "server_error"
    code: str = ""  # "": the status

    def __init__(self, message: str, *, field: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.extra = extra

    def named(self, field: str) -> Self:
        """The same error with the name of the field, which only the caller knows."""
        return type(self)(f"Field '{field}': {self.message}", field=field, **self.extra)

    def body(self) -> dict[str, Any]:
        """Return the JSON body: `{"error": {code, message, type, ...}}`."""
        error: dict[str, Any] = {"code": self.code or self.status, "message": self.message, "type": self.kind}
        if self.field is not None:
            error["param"] = self.field
        error.update(self.extra)
        return {"error": error}


class InvalidRequest(ServerError):
    """The request is wrong. `field` is the field at fault."""

    status = 400
    kind = "invalid_request_error"


class ContextExceeded(InvalidRequest):
    """The prompt does not fit a slot, and may not be cut. Clients know it by its type, its code or its words.

    `extra` has `n_prompt_tokens` and `n_ctx`, both in tokens.
    """

    kind = "exceed_context_size_error"
    code = "context_length_exceeded"

    @classmethod
    def of(cls, size: int, limit: int, *, field: str, unit: str = "tokens", least: int = 0) -> Self:
        """The error for `size` units where `limit` tokens fit. `least` is a lower bound of tokens for other units."""
        message = f"request ({size} {unit}) exceeds the available context size ({limit} tokens), try increasing it"
        return cls(message, field=field, n_prompt_tokens=least or size, n_ctx=limit)


class TemplateRefusal(InvalidRequest):
    """The chat template does not accept these messages."""


class Unauthorized(ServerError):
    """No valid API key. `closes`: the answer ends the connection, so that a further try costs a new one."""

    status = 401
    kind = "authentication_error"

    def __init__(self, message: str, *, closes: bool = False) -> None:
        super().__init__(message)
        self.closes = closes


class Forbidden(ServerError):
    """The client may not do this, or may not be answered at all."""

    status = 403
    kind = "permission_error"


class InsufficientStorage(ServerError):
    """The files of clients take as much room as they may."""

    status = 507
    kind = "insufficient_storage_error"


class NotFound(ServerError):
    """No such path or object."""

    status = 404
    kind = "not_found_error"


class NotSupported(ServerError):
    """The server was started without this feature."""

    status = 501
    kind = "not_supported_error"


class Unavailable(ServerError):
    """The server cannot take the request now. `retry_after` is in seconds."""

    status = 503
    kind = "unavailable_error"

    def __init__(self, message: str, *, retry_after: int | None = None, **extra: Any) -> None:
        super().__init__(message, **extra)
        self.retry_after = retry_after


class RateLimited(Unavailable):
    """The API key has reached one of its limits. Others can go on."""

    status = 429
    kind = "rate_limit_error"


class EngineFailure(ServerError):
    """The engine failed at a request that it had accepted."""


class TemplateFailure(ServerError):
    """The chat template is no Jinja, or fails at a plain conversation."""


class HttpFailure(ServerError):
    """An error with any other HTTP status, such as a body that is too large."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        if status == NotFound.status:
            self.kind = NotFound.kind
        elif status < ServerError.status:
            self.kind = InvalidRequest.kind


def as_server_error(error: Exception) -> ServerError:
    """The engine's error as one the API can send."""
    return error if isinstance(error, ServerError) else EngineFailure(str(error))


class ConfigError(Exception):
    """The command line or the environment is wrong."""


class EngineLost(Exception):
    """The engine cannot evaluate anything any more. The server has to be started again."""


class ModelLoadError(Exception):
    """The model, an adapter or the projector cannot be loaded. `file` may be the damaged one."""

    def __init__(self, message: str, file: str = "") -> None:
        super().__init__(message)
        self.file = file


class TemplateInvalid(ModelLoadError):
    """The chat template does not compile, or cannot render a plain chat."""


class DownloadError(ModelLoadError):
    """A download failed. `reason` is the word of a Reason."""

    def __init__(self, message: str, reason: str = "DownloadFailed") -> None:
        super().__init__(message)
        self.reason = Reason(reason)
