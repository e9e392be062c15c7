"""The grammars of calls, for the formats of all templates of llama.cpp's source."""

import json
import re
from collections.abc import Sequence
from typing import Any

import llguidance
import numpy as np
import pytest
from llamaserver.grammar.matcher import Matcher
from llamaserver.interfaces.grammar import Constraint
from llamaserver.interfaces.params import SamplingParams
from llamaserver.sampling.sampler import ChainSamplerFactory
from llamaserver.toolformat.call_grammar import call_grammar
from llamaserver.toolformat.form import Format, Mode

from tests.support.engine.vocab import ListVocab
from tests.toolformat.test_round_trip import ANSWERS, NAMES, PARAMETERS, SELDOM, Model, can_write, models

JSON = dict[str, Any]
__all__ = ["models"]  # the fixture
CONTROL = re.compile(r"<\|[^<>|]*\|>|<\uff5c[^<>\uff5c]*\uff5c>|\[[A-Z_]{3,}\]|<\|tool_call>|<tool_call\|>|<\|\"\|>")
ENDS = (
    "<EOS>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eom|>", "<|call|>", "<\uff5chy_eos:opensource\uff5c>",
    "<|END_OF_TURN_TOKEN|>", "<SPECIAL_12>", "<|tool_response>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip
CLOSED = PARAMETERS | {"additionalProperties": False, "required": ["city"]}
TOOLS = {NAMES[0]: CLOSED, NAMES[1]: CLOSED | {"required": ["code"]}}
AS_MODELS_WRITE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Checker:
    """A vocabulary of single bytes and of the control tokens of a format, and its grammars."""

    def __init__(self, form: Format) -> None:
        controls = sorted({text for mark in form.marks for text in CONTROL.findall(mark)} - set(ENDS))
        self._pieces = [bytes([i]) for i in range(256)] + [text.encode() for text in (*ENDS, *controls)]
        special = range(256 + len(ENDS), len(self._pieces))
        self._known = {text: [token] for token, text in enumerate((*ENDS, *controls), 256)}
        self._parts = re.compile("(" + "|".join(map(re.escape, self._known)) + ")")
        self.form = form
        self.vocab = ListVocab(self._pieces, eog=range(256, 256 + len(ENDS)), special=special)
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(self), eos_token=sorted(self.vocab.eog), slices=[]
        )
        self.eos_token_id, self.bos_token_id = 256, None

    # what llguidance asks of a tokenizer
    eos_token_id = 256
    bos_token_id = None

    @property
    def tokens(self) -> Sequence[bytes]:
        return self._pieces

    @property
    def special_token_ids(self) -> Sequence[int]:
        return range(256, len(self._pieces))

    def __call__(self, text: bytes | str) -> list[int]:
        return self.ids(text if isinstance(text, str) else text.decode("utf-8", "replace"))

    def ids(self, text: str) -> list[int]:
        return [token for part in self._parts.split(text) for token in self._known.get(part) or part.encode()]

    def matcher(self, *, tools: JSON | None = None, **options: Any) -> llguidance.LLMatcher:
        text = "%llguidance {}\n" + call_grammar(self.form, tools or TOOLS, self.vocab, value, **options)
        matcher = llguidance.LLMatcher(self._tokenizer, text)
        assert not matcher.is_error(), (matcher.get_error(), text)
        return matcher

    def allows(self, matcher: llguidance.LLMatcher, text: str) -> bool:
        """Whether a text is an answer, up to the end of a turn."""
        ids = self.ids(text.rstrip())
        end = next((place for place, token in enumerate(ids) if token in self.vocab.eog), len(ids))
        ids = ids[:end]
        matcher = matcher.deep_copy()
        return matcher.try_consume_tokens(ids) == len(ids) and bool(matcher.is_accepting())


def value(schema: JSON) -> str:
    return "%json " + json.dumps(schema | {"x-guidance": AS_MODELS_WRITE})


def answer_of(model: Model, name: str) -> str:
    """What the model writes after its thoughts."""
    _, text = model.written(ANSWERS[name])
    text = text.removeprefix(model.form.turn.strip())
    think = model.form.think
    return text.partition(think[1])[2] if think[1] and think[1] in text[:200] else text


def begun(model: Model) -> bool:
    mark = model.form.call[0]
    return bool(mark) and model.written(ANSWERS["content"])[0].rstrip().endswith(mark)


OTHERS = {  # what a template writes in another form
    "Apriel-1.6-15b-Thinker-fixed": ("one call", "code", "two calls"),  # begins with a part of the prompt
    "ByteDance-Seed-OSS": ("code", "two calls"),  # objects as Python writes them
    "openbmb-MiniCPM5-1B": ("code", "two calls"),
    "GigaChat3-10B-A1.8B": ("one call", "code", "content and a call"),  # ends a turn with the mark that ends a call
    "GigaChat3.1-10B-A1.8B": ("one call", "code", "content and a call"),
    "CohereForAI-c4ai-command-r-plus-tool_use": ("one call", "code", "two calls", "content and a call"),  # indents JSON
}


@pytest.mark.parametrize("parallel", [True, False], ids=["several", "one"])
@pytest.mark.parametrize("required", [True, False], ids=["required", "auto"])
def test_what_templates_write_is_allowed(models: dict[str, Model], required: bool, parallel: bool) -> None:
    wrong = []
    for name, model in models.items():
        checker = Checker(model.form)
        matcher = checker.matcher(required=required, parallel=parallel, begun=begun(model))
        for kind in ("content", "one call", "code", "two calls", "content and a call"):
            answer = ANSWERS[kind]
            if (required and (answer.content or not answer.calls)) or (len(answer.calls) > 1 and not parallel):
                continue
            if not can_write(model, answer) or kind in (*SELDOM.get(name, ()), *OTHERS.get(name, ())):
                continue
            if not checker.allows(matcher, answer_of(model, kind)):
                wrong.append((name, kind))
    assert wrong == []


@pytest.mark.parametrize("required", [True, False], ids=["required", "auto"])
def test_a_call_has_a_name_and_arguments_of_the_request(models: dict[str, Model], required: bool) -> None:
    wrong = []
    for name, model in models.items():
        if "one call" in (*SELDOM.get(name, ()), *OTHERS.get(name, ())):
            continue
        checker = Checker(model.form)
        matcher = checker.matcher(required=required, parallel=False, begun=begun(model))
        text = answer_of(model, "one call")
        spoiled = {"name": text.replace("get_weather", "get_weathers"), "city": text.replace("city", "town")}
        spoiled["days"] = re.sub(r"(days\W+(?:\w+_value>)?\D*)3", r"\g<1>several", text)
        for what, other in spoiled.items():
            assert other != text, name
            if checker.allows(matcher, other):
                wrong.append((name, what))
    assert wrong == []


HERMES = Format(Mode.JSON, call=("<tool_call>", "</tool_call>"), object='{"name": "\ue000", "arguments": \ue001}')
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "x"}}\n</tool_call>'


def test_free_text_is_free_until_a_mark() -> None:
    checker = Checker(HERMES)
    matcher = checker.matcher(required=False, parallel=True)
    for text in ("", "Hello.", "<tool_cal", "{}", f"Wait. {CALL}", f"{CALL}{CALL}", f"{CALL}\nDone."):
        assert checker.allows(matcher, text), text
    for text in ("<tool_call>", "<tool_call>x", f"{CALL}<tool_call>"):
        assert not checker.allows(matcher, text), text


def test_one_call_ends_the_answer() -> None:
    checker = Checker(HERMES)
    for required in (True, False):
        matcher = checker.matcher(required=required, parallel=False)
        assert checker.allows(matcher, CALL)
        assert not checker.allows(matcher, CALL + CALL)
        assert not checker.allows(matcher, CALL + "more")
    assert not checker.allows(checker.matcher(required=True, parallel=False), "Hello.")


def test_content_of_a_form() -> None:
    checker = Checker(HERMES)
    matcher = checker.matcher(required=False, parallel=False, content=value({"type": "integer"}))
    assert [checker.allows(matcher, text) for text in ("12", "x", CALL)] == [True, False, True]


def test_calls_without_a_mark() -> None:
    checker = Checker(Format(Mode.JSON, object='{"name": "\ue000", "parameters": \ue001}'))
    matcher = checker.matcher(required=False, parallel=False)
    call = '{"name": "get_weather", "parameters": {"city": "x"}}'
    allowed = ("", "Hello.", "{", '{"answer": 1}', call)
    assert all(checker.allows(matcher, text) for text in allowed)
    assert not checker.allows(matcher, call.replace("city", "town"))
    assert not checker.allows(matcher, call.replace("get_weather", "x"))


def test_required_parameters_in_tags() -> None:
    form = Format(Mode.TAGGED, call=("<f=", "</f>"), name_end=">", argument=("<p=", "</p>"), key_end=">")
    checker = Checker(form)
    matcher = checker.matcher(required=True, parallel=False)
    city, days, wide = "<p=city>Rome</p>", "<p=days>3</p>", "<p=wide>true</p>"
    for arguments, allowed in (
        (city, True), (city + days + wide, True), (city + "\n" + wide, True), (days, False), ("", False),
        (city + city, False), (city + "<p=days>x</p>", False), (city + "<p=code>if a < b: pass</p>", True),
    ):  # fmt: skip
        assert checker.allows(matcher, f"<f=get_weather>{arguments}</f>") is allowed, arguments


def test_texts_with_quotation_marks_in_python() -> None:
    checker = Checker(Format(Mode.PYTHON, call=("<call>[", "</call>")))
    one = {"properties": {"unit": {"enum": ["it's", "C"]}, "n": {"type": "integer"}}, "required": ["unit"]}
    matcher = checker.matcher(tools={"f": one}, required=True, parallel=False)
    for arguments, allowed in (
        ("unit='C'", True), ('unit="it\'s", n=1', True), ("unit='it's'", False), ("n=1", False), ("unit='F'", False),
    ):  # fmt: skip
        assert checker.allows(matcher, f"<call>[f({arguments})]</call>") is allowed, arguments


FREE_TEXT = b"Free text: 1 < 2, {x}, [y], `code`, and \xc3\xa9.\n\nDone."


def test_free_text_costs_no_mask_before_a_call_begins(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all templates: the token that the sampler chooses is looked at, but not the whole vocabulary."""
    masks: list[Matcher] = []
    for name in ("allowed", "first_allowed"):
        monkeypatch.setattr(Matcher, name, lambda self, *ids: masks.append(self))
    for name, model in models.items():
        checker = Checker(model.form)
        if not model.form.openings or begun(model):
            continue
        text = call_grammar(model.form, TOOLS, checker.vocab, value, required=False, parallel=True)
        params = SamplingParams(temperature=0.0, constraint=Constraint(text, field="tools"))
        sampler = ChainSamplerFactory(checker.vocab)(params, 4096)
        sampler.prime([])
        for letter in FREE_TEXT:
            logits = np.zeros(checker.vocab.n_vocab, np.float32)
            logits[letter] = 9
            assert sampler.sample(logits)[0] == letter, name
    assert masks == []
