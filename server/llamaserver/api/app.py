"""The two aiohttp applications: the client port and the management port."""

import logging

from aiohttp import web

from ..config import Config
from ..engine.loop import Engine
from ..interfaces.backend import BuiltinTemplates
from . import (
    anthropic,
    chat_control,
    headers,
    health,
    kv_store,
    lora,
    management,
    metrics,
    native,
    native_embeddings,
    native_tokens,
    openai,
    openai_embeddings,
    openai_models,
    openapi,
    rerank,
    responses,
    responses_kept,
    slots,
    static,
)
from .access import access_log, answer_id, without_content
from .authorize import authorize
from .context import CONTEXT, Context
from .keys import KeyStore
from .middleware import allow_origin, count_bodies, draining, errors, known_origin, preflight
from .weakened import add_header


def build_context(config: Config, engine: Engine, builtin: BuiltinTemplates) -> Context:
    """The state that both applications share."""
    return Context(config, engine, KeyStore(config.api_keys, config.api_key_file), builtin)


def build_app(context: Context) -> web.Application:
    """The clients' port: the API and the page."""
    app = web.Application(
        middlewares=[access_log, known_origin, preflight, draining, errors, authorize, count_bodies],
        client_max_size=context.config.largest_body,
    )
    app[CONTEXT] = context
    logging.getLogger("aiohttp.server").addFilter(without_content)
    app.on_response_prepare.extend((headers.protect, allow_origin, answer_id, add_header))
    anthropic.add_routes(app)
    chat_control.add_routes(app)
    health.add_routes(app)
    kv_store.add_routes(app)
    lora.add_routes(app)
    metrics.add_routes(app)
    native.add_routes(app)
    native_embeddings.add_routes(app)
    native_tokens.add_routes(app)
    openai.add_routes(app)
    openai_embeddings.add_routes(app)
    openai_models.add_routes(app)
    openapi.add_routes(app)
    rerank.add_routes(app)
    responses.add_routes(app)
    responses_kept.add_routes(app)
    slots.add_routes(app)
    static.add_routes(app)
    return app


def build_management_app(context: Context) -> web.Application:
    """The management port: probes, metrics and status, without keys and TLS."""
    app = web.Application(middlewares=[errors])
    app[CONTEXT] = context
    app.on_response_prepare.append(headers.protect)
    management.add_routes(app)
    return app
