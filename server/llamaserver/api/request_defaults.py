"""What a request gets for fields that it leaves out: the values of the command line, over those of the dialect."""

from dataclasses import replace

from ..errors import ConfigError, InvalidRequest
from ..interfaces.params import GenerationParams
from .context import Context
from .fields import Fields
from .schema import RANDOM_SEED, Limits, parse_generation

_GRAMMARS = ("grammar", "json_schema")
_OWN_FORM = (*_GRAMMARS, "response_format", "tools", "functions")  # a request with one of these says what it wants


def with_request_defaults(context: Context, fields: Fields) -> Fields:
    """The fields over the server's defaults. A request with a form of its own does not get the server's grammar."""
    defaults = dict(context.config.request_defaults)
    if any(fields.get(name)[1] for name in _OWN_FORM):
        defaults = {name: value for name, value in defaults.items() if name not in _GRAMMARS}
    return fields.over(defaults)


def default_params(context: Context) -> GenerationParams:
    """What a request without any fields gets. A seed that is drawn for each request is -1, as 32 bits."""
    engine, config = context.engine, context.config
    limits = Limits(engine.vocab, engine.settings.n_slots, engine.info.n_lora)
    params = parse_generation(with_request_defaults(context, Fields({})), limits)
    seed = params.sampling.seed if _seed_is_fixed(config.request_defaults) else RANDOM_SEED
    return replace(params, n_predict=config.n_predict, sampling=replace(params.sampling, seed=seed))


def _seed_is_fixed(defaults: tuple[tuple[str, object], ...]) -> bool:
    return dict(defaults).get("seed", -1) not in (-1, RANDOM_SEED)


def check_request_defaults(context: Context) -> None:
    """Read the defaults as a request does, and set `context.defaults`. Raises ConfigError (worker thread)."""
    engine = context.engine
    try:
        context.defaults = default_params(context)
        if engine.info.causal:
            engine.make_sampler(context.defaults.sampling, engine.settings.slot_ctx)
    except InvalidRequest as error:
        raise ConfigError(f"an option for fields that requests leave out: {error}") from error
