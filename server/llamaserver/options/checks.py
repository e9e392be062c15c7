"""Problems that no option has alone: options that exclude or need each other, and paths that do not exist."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..config import Config
from ..errors import ConfigError

_LEAST_BODY = 1024  # bytes
_LEAST_SLOT = 8  # tokens; a smaller slot could hold no prompt and answer
_HOST = re.compile(r"[^\s:/]+|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?")  # the second is IPv6
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/]+/?|null|localhost|\*")


def check(config: Config) -> None:
    """Raise ConfigError for the first problem."""
    for problems in (_model, _context, _serving, _paths):
        for problem in problems(config):
            raise ConfigError(problem)


def _model(config: Config) -> Iterator[str]:
    if not (config.model or config.model_url or config.hf_repo):
        yield "a model is needed: -m, --model-url or --hf-repo"
    if config.model_url and config.hf_repo:
        yield "--model-url and --hf-repo exclude each other"
    if config.hf_file and not config.hf_repo:
        yield "--hf-file needs --hf-repo"
    if config.models_use and not config.models_owner:
        yield "--models-use needs --models-owner"
    if config.chat_template and config.chat_template_file:
        yield "--chat-template and --chat-template-file exclude each other"


def _context(config: Config) -> Iterator[str]:
    if config.grp_attn_w % config.grp_attn_n != 0:
        yield "--grp-attn-w must be a multiple of --grp-attn-n"
    if 0 < config.ctx_size < _LEAST_SLOT * config.parallel:  # 0 is the model's
        yield "--ctx-size leaves no room for --parallel slots"


def _serving(config: Config) -> Iterator[str]:
    if bool(config.ssl_key_file) != bool(config.ssl_cert_file):
        yield "--ssl-key-file and --ssl-cert-file belong together"
    if config.management_port > 0 and config.management_port == config.port:
        yield "--management-port must not be --port"
    if 0 < config.max_body < _LEAST_BODY:
        yield f"--max-body must be 0 or at least {_LEAST_BODY}"
    if len(config.hosts) > 1 and not all(config.hosts):
        yield f"--host {config.host}: an address is empty"
    for host in config.allowed_hosts:
        if not _HOST.fullmatch(host):
            yield f"--allowed-hosts {host}: must be a host name or an address, without a port"
    for origin in config.allowed_origins:
        if not _ORIGIN.fullmatch(origin):
            yield f"--allowed-origins {origin}: must be an origin such as https://example.com, null, localhost, or *"


def _paths(config: Config) -> Iterator[str]:
    if config.slot_save_path:
        folder = Path(config.slot_save_path)
        if not (folder.is_dir() or folder.parent.is_dir()):  # the folder itself can be created
            yield f"--slot-save-path {folder} is no folder"
    if config.api_key_file and not os.access(config.api_key_file, os.R_OK):
        yield f"--api-key-file {config.api_key_file} is no file or folder that can be read"
    if config.path and not Path(config.path).is_dir():
        yield f"--path {config.path} is no folder"
