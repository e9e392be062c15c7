"""Chat templates run in a sandbox: hostile ones do no harm, and those of real models have what they need."""

import json
from typing import Any

import pytest
from llamaserver.api import templates
from llamaserver.api.templates import CHATML, compile_template, render
from llamaserver.errors import ServerError, TemplateFailure, TemplateRefusal

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def rendered(template: str, **variables: Any) -> str:
    return render(compile_template(template), {"messages": MESSAGES, "add_generation_prompt": True, **variables})


ESCAPES = [
    "{{ messages.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ joiner.__init__.__globals__.os }}{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__.sys.modules }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment.tick.__func__.__globals__ }}",
    "{{ (messages | map(attribute='__class__') | first).__mro__ }}",
    "{{ messages | map(attribute='append.__self__.__class__') | first | attr('mro') }}",
    "{{ ([] | attr('append') | attr('__self__')).__class__ }}",
    "{{ ('%s' | attr('format_map'))({}) }}{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{a.__init__.__globals__}'.format_map({'a': cycler}) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "{{ (messages | list).append.__call__.__objclass__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends '/etc/passwd' %}",
]


@pytest.mark.parametrize("template", ESCAPES, ids=range(len(ESCAPES)))
def test_nothing_of_python_is_reached(template: str) -> None:
    """Either it is refused, or what it asks for is undefined or only text."""
    try:
        text = rendered(template)
    except ServerError:
        return
    assert "<class" not in text
    assert "module" not in text
    assert "root:" not in text


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.update({'role': 'x'}) }}{% endfor %}",
        "{% for m in messages %}{{ m.clear() }}{% endfor %}",
        "{{ messages.clear() }}",
        "{{ messages.sort() }}",
        "{{ undefined.attribute }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ self.a() }}{% block a %}{{ self.a() }}{% endblock %}",
        "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
    ],
)
def test_what_is_refused(template: str) -> None:
    with pytest.raises(ServerError):
        rendered(template)


def test_a_template_can_refuse_messages() -> None:
    with pytest.raises(TemplateRefusal, match="no such role"):
        rendered("{{ raise_exception('no such role') }}")


ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i * j %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f(n) %}{{ caller(n) }}{% endmacro %}"
    "{% for i in range(99999) %}{% for j in range(99999) %}{% call(n) f(1) %}{{ n }}{% endcall %}{% endfor %}"
    "{% endfor %}",
    "{% for i in [[1, 2]] recursive %}{% if depth is not defined %}{{ loop([i, i]) }}{% endif %}{% endfor %}",
    "{% set l = [1] %}{% for i in l %}{% set _ = l.append(i) %}{% endfor %}",
    "{% set s = namespace(d=0) %}{% block b %}{% set s.d = s.d + 1 %}"
    "{% if s.d < 900 %}{{ self.b() }}{{ self.b() }}{% endif %}{% set s.d = s.d - 1 %}{% endblock %}",
]


@pytest.mark.parametrize("template", ENDLESS, ids=range(len(ENDLESS)))
def test_a_template_that_does_not_end_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MAX_SECONDS", 0.05)
    with pytest.raises(TemplateFailure, match=r"too much time|recursion"):
        rendered(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ (9 ** 9) ** (9 ** 9) }}",
        "{% set n = namespace(x=10 ** 600) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ 'x' * (10 ** 10) }}",
        "{{ (10 ** 10) * [1] }}",
        "{% for i in range(1000000000) %}{% endfor %}",
    ],
)
def test_a_single_step_cannot_take_long(template: str) -> None:
    with pytest.raises(TemplateFailure, match="OverflowError"):
        rendered(template)


def test_numbers_and_repeats_of_usual_size() -> None:
    assert rendered("{{ 2 ** 10 }} {{ 3 * 4 }} {{ 0.5 * 4 }} {{ 2 ** 0.5 > 1 }} {{ 'ab' * 2 }} {{ [1] * 2 }}") == (
        "1024 12 2.0 True abab [1, 1]"
    )


def test_names_of_the_watch_are_free() -> None:
    assert rendered("{% for tick in [1] %}{% set environment = tick %}{{ environment }}{% endfor %}") == "1"


def test_generation_marks_are_rendered_as_if_they_were_not_there() -> None:
    assert rendered("{% for m in messages %}{% generation %}{{ m.role }} {% endgeneration %}{% endfor %}") == (
        "system user "
    )


def test_loops_can_be_left() -> None:
    assert rendered("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% if i > 2 %}{% break %}"
                    "{% endif %}{% endfor %}") == "023"  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", '{"b": "é", "a": [1]}'),
        ("ensure_ascii=True", '{"b": "\\u00e9", "a": [1]}'),
        ("ensure_ascii=False, separators=(',', ':')", '{"b":"é","a":[1]}'),
        ("sort_keys=True", '{"a": [1], "b": "é"}'),
        ("indent=1", '{\n "b": "é",\n "a": [\n  1\n ]\n}'),
    ],
)
def test_tojson_has_the_arguments_of_transformers(arguments: str, expected: str) -> None:
    assert rendered("{{ value | tojson(%s) }}" % arguments, value={"b": "é", "a": [1]}) == expected  # noqa: UP031


def test_what_filters_return_is_written_as_a_list() -> None:
    assert json.loads(rendered("{{ messages | map(attribute='role') | tojson }}")) == ["system", "user"]


def test_lists_can_be_used_as_queues() -> None:
    template = "{% set q = namespace(l=[]) %}{% set _ = q.l.append('a') %}{% set _ = q.l.append('b') %}{{ q.l.pop(0) }}"
    assert rendered(template) == "a"


def test_the_time_is_there() -> None:
    assert rendered("{{ strftime_now('%Y') }}").startswith("2")


def test_chatml_is_the_fallback() -> None:
    assert rendered(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
