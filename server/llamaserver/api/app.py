"""The two aiohttp applications: the client port and the management port."""

from aiohttp import web

from ..config import Config
from ..engine.loop import Engine
from . import admin, kvstore, native, oai_embeddings, oai_models, openai, openapi, static
from .context import CONTEXT, Context
from .keys import KeyStore
from .middleware import access_log, allow_origin, authorize, draining, errors, preflight


def build_context(config: Config, engine: Engine) -> Context:
    """The state that both applications share."""
    return Context(config, engine, KeyStore(config.api_keys, config.api_key_file))


def build_app(context: Context) -> web.Application:
    """The API, the page, and everything clients see."""
    app = web.Application(
        middlewares=[access_log, preflight, draining, errors, authorize], client_max_size=context.config.max_body
    )
    app[CONTEXT] = context
    app.on_response_prepare.append(allow_origin)
    admin.add_routes(app)
    kvstore.add_routes(app)
    native.add_routes(app)
    openai.add_routes(app)
    oai_embeddings.add_routes(app)
    oai_models.add_routes(app)
    openapi.add_routes(app)
    static.add_routes(app)
    return app


def build_management_app(context: Context) -> web.Application:
    """Probes, metrics and status: no key, no TLS."""
    app = web.Application(middlewares=[errors])
    app[CONTEXT] = context
    admin.add_management_routes(app)
    return app
