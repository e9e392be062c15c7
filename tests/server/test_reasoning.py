"""Thoughts apart from the answer, from a tiny model whose words a grammar decides, or nobody."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.models import Models
from tests.support.server.client import Client, read_events
from tests.support.server.process import ServerProcess
from tests.support.vendored import vendored_templates

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Weather in Rome?"}]
SUNNY = 'root ::= <think> "\\nHm.\\n" </think> "\\n\\nSunny"'
A: dict[str, Any] = {"logit_bias": [["a", 100]]}  # says "a" for ever
WEATHER_CALL = {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "a", "output": "Sunny"}
YES = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def serve(models: Models, template: str, *options: str) -> ServerProcess:
    path = models.thinking(vendored_templates()[template])
    return ServerProcess("-m", str(path), "-c", "4096", "-np", "2", "-cb", *options)


@pytest.fixture(scope="module")
def qwen(models: Models) -> Iterator[Client]:
    """A model that begins a thought itself, or not."""
    with serve(models, "Qwen-Qwen3-0.6B") as process:
        yield Client(process.url)


@pytest.fixture(scope="module")
def begun(models: Models) -> Iterator[Client]:
    """Its template begins a thought."""
    options = ("--reasoning-budget", "7", "--reasoning-budget-message", " Stop.", "--no-prefill-assistant")
    with serve(models, "Qwen3.5-4B", *options, "--chat-template-kwargs", '{"enable_thinking": true}') as process:
        yield Client(process.url)


def ask(client: Client, **fields: Any) -> Any:
    """The message, with the usage in it."""
    answer = client.post(CHAT, {"messages": USER, "max_tokens": 40, "temperature": 0, **fields})
    details = answer["usage"]["completion_tokens_details"]
    return answer["choices"][0]["message"] | details | {"completion_tokens": answer["usage"]["completion_tokens"]}


def deltas(client: Client, **fields: Any) -> list[dict[str, Any]]:
    events = client.events(CHAT, messages=USER, max_tokens=40, temperature=0, **fields)
    assert events.pop() == "[DONE]"
    return [event["choices"][0]["delta"] for event in events]


def test_thoughts_are_apart(qwen: Client) -> None:
    message = ask(qwen, grammar=SUNNY)
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Sunny")
    assert message["reasoning_tokens"] == 1 + 5 + 1
    assert message["completion_tokens"] == 7 + 7 + 1


def test_thoughts_come_first_in_a_stream(qwen: Client) -> None:
    first, *texts, last = deltas(qwen, grammar=SUNNY)
    assert (first["role"], last) == ("assistant", {})
    names = [name for delta in texts for name in delta]
    assert names == sorted(names, reverse=True)  # reasoning_content, then content
    assert "".join(delta.get("reasoning_content", "") for delta in texts) == "Hm."
    assert "".join(delta.get("content", "") for delta in texts) == "Sunny"


def test_thoughts_can_stay_in_the_content(qwen: Client) -> None:
    message = ask(qwen, grammar=SUNNY, reasoning_format="none")
    assert message["content"] == "<think>\nHm.\n</think>\n\nSunny"
    assert "reasoning_content" not in message
    assert message["reasoning_tokens"] == 7
    message = ask(qwen, grammar=SUNNY, reasoning_format="deepseek-legacy")
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "<think>Hm.</think>Sunny")
    text = "".join(delta.get("content") or "" for delta in deltas(qwen, grammar=SUNNY, reasoning_format="none"))
    assert text == "<think>\nHm.\n</think>\n\nSunny"


def test_thinking_is_switched_off_by_the_template(qwen: Client) -> None:
    on = qwen.post("/apply-template", messages=USER)["prompt"]
    for fields in (
        {"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"},
    ):  # fmt: skip
        off = qwen.post("/apply-template", messages=USER, **fields)["prompt"]
        assert off == on + "<think>\n\n</think>\n\n"
        assert ask(qwen, **fields)["reasoning_tokens"] == 0
    for effort in ("minimal", "low", "medium", "high"):
        assert qwen.post("/apply-template", messages=USER, reasoning_effort=effort)["prompt"] == on


def test_a_budget_has_the_exact_number_of_tokens(begun: Client) -> None:
    for budget, fields in ((7, {}), (0, {"reasoning_budget_tokens": 0}), (3, {"thinking_budget_tokens": 3})):
        message = ask(begun, **A, **fields)
        assert message["reasoning_tokens"] == budget + len(" Stop.") + 1
        assert message["reasoning_content"] == ("a" * budget + " Stop.").strip()
    message = ask(begun, **A, reasoning_budget_tokens=2, reasoning_budget_message="Enough", reasoning_format="none")
    assert message["content"].startswith("aaEnough</think>a")


def test_a_schema_holds_after_the_thought(begun: Client) -> None:
    for fields in ({"response_format": YES}, {"grammar": 'root ::= "\\"yes\\"" | "\\"no\\""'}):
        message = ask(begun, **A, **fields)
        assert message["content"] in ('"yes"', '"no"')
        assert message["reasoning_content"] == "aaaaaaa Stop."
        assert message["reasoning_tokens"] == 14
        texts = deltas(begun, **A, **fields)
        assert "".join(delta.get("content") or "" for delta in texts) == message["content"]


def test_a_call_follows_the_thought(begun: Client) -> None:
    parameters = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
    message = ask(begun, **A, tools=tools, tool_choice="required", reasoning_budget_tokens=3, max_tokens=200)
    assert message["reasoning_content"] == "aaa Stop."
    (call,) = message["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    texts = deltas(begun, **A, tools=tools, reasoning_budget_tokens=3)
    assert "".join(delta.get("reasoning_content", "") for delta in texts) == "aaa Stop."
    assert set("".join(delta.get("content") or "" for delta in texts)) == {"a"}


def test_a_schema_holds_without_a_thought(begun: Client) -> None:
    message = ask(begun, response_format=YES, enable_thinking=False)
    assert message["content"] in ('"yes"', '"no"')
    assert message["reasoning_tokens"] == 0


def test_forced_tokens_have_probabilities_and_stop_strings(begun: Client) -> None:
    answer = begun.post(CHAT, messages=USER, max_tokens=20, temperature=0, logprobs=True, top_logprobs=2, **A)
    tokens = [one["token"] for one in answer["choices"][0]["logprobs"]["content"]]
    assert len(tokens) == 20
    assert tokens[:15] == [*"aaaaaaa Stop.", "</think>", "a"]
    message = ask(begun, **A, stop=["op."])
    assert (message["completion_tokens"], message["reasoning_content"]) == (13, "aaaaaaa St")


def test_a_thought_can_be_ended_from_outside(begun: Client) -> None:
    control = "/v1/chat/completions/control"
    fields = {"messages": USER, "stream": True, "max_tokens": 950, "reasoning_budget_tokens": 900, **A}
    with begun.http.stream("POST", CHAT, json=fields) as answer:
        events = read_events(answer.iter_lines())
        head = next(events)
        thought = ""
        while not thought:
            thought = next(events)["choices"][0]["delta"].get("reasoning_content") or ""
        assert begun.post(control, id=head["id"], action="reasoning_end") == {"success": True}
        deltas = [event["choices"][0]["delta"] for event in events if event != "[DONE]"]
    thought += "".join(delta.get("reasoning_content") or "" for delta in deltas)
    assert thought.endswith("a Stop.")
    assert len(thought) < 900
    assert begun.post(control, id=head["id"], action="reasoning_end")["success"] is False
    assert begun.error(control, {"action": "reasoning_end"})["message"] == "missing completion id"
    assert begun.error(control, {"id": "x", "action": "stop"})["message"] == "unknown control action"


def test_what_an_assistant_has_begun_is_not_continued(begun: Client) -> None:
    messages = [*USER, {"role": "assistant", "content": "It is"}]
    assert begun.post("/apply-template", messages=messages)["prompt"].endswith("<|im_start|>assistant\n<think>\n")
    continued = begun.post("/apply-template", messages=messages, continue_final_message=True)["prompt"]
    assert continued.endswith("It is")


def test_the_channels_of_gpt_oss(models: Models) -> None:
    begin = '<|channel|> "analysis" <|message|> "Hm." <|end|> <|start|> "assistant" <|channel|> "final" <|message|>'
    with serve(models, "openai-gpt-oss-120b") as process:
        client = Client(process.url)
        message = ask(client, grammar=f'root ::= {begin} "Sunny"')
        assert (message["reasoning_content"], message["content"], message["reasoning_tokens"]) == ("Hm.", "Sunny", 14)
        prompts = {client.post("/apply-template", messages=USER, reasoning_effort=level)["prompt"] for level in LEVELS}
        assert len(prompts) == len(LEVELS)
        bias = [["<|channel|>", 100]]  # so it thinks
        message = ask(client, logit_bias=bias, response_format=YES, reasoning_budget_tokens=5)
        assert message["content"] in ('"yes"', '"no"')


LEVELS = ("low", "medium", "high")
WRONG = {
    "reasoning_format": "deep",
    "reasoning_budget_tokens": -2,
    "thinking_budget_tokens": "many",
    "reasoning_budget_message": "x" * 5000,
    "reasoning_effort": 3,
    "enable_thinking": "yes",
    "chat_template_kwargs": {"enable_thinking": "yes"},
}


@pytest.mark.parametrize(("name", "value"), WRONG.items())
def test_wrong_fields_are_refused(qwen: Client, name: str, value: Any) -> None:
    error = qwen.error(CHAT, {"messages": USER, name: value})
    assert name in error["message"] or "enable_thinking" in error["message"]


def test_answers_are_not_parsed_if_the_server_must_not(models: Models) -> None:
    with serve(models, "Qwen-Qwen3-0.6B", "--skip-chat-parsing", "--reasoning", "off") as process:
        client = Client(process.url)
        message = ask(client, grammar=SUNNY, enable_thinking=True)
        assert message["content"] == "<think>\nHm.\n</think>\n\nSunny"
        assert client.post("/apply-template", messages=USER)["prompt"].endswith("</think>\n\n")


def test_thoughts_are_items_of_responses(qwen: Client) -> None:
    asked = {"input": USER, "grammar": SUNNY, "include": ["reasoning.encrypted_content"]}
    answer = qwen.post("/v1/responses", asked)
    thought, message = answer["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Sunny"
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] == 7
    told = qwen.events("/v1/responses", **asked, reasoning={"summary": "auto"})
    assert told[-1]["response"]["output"][0]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    deltas = [event["delta"] for event in told if event["type"] == "response.reasoning_summary_text.delta"]
    assert "".join(deltas) == "Hm."
    # A client that keeps the thought sends it back, in one of three forms.
    bare = qwen.post("/v1/responses/input_tokens", input=[*USER, WEATHER_CALL, RESULT])["input_tokens"]
    for form in ("content", "summary", "encrypted_content"):
        kept = {"type": "reasoning", "summary": [], form: {**thought, **told[-1]["response"]["output"][0]}[form]}
        count = qwen.post("/v1/responses/input_tokens", input=[*USER, kept, WEATHER_CALL, RESULT])["input_tokens"]
        assert count > bare, form


def test_props_show_what_chats_get(qwen: Client, begun: Client) -> None:
    shown = [client.get("/props")["default_generation_settings"] for client in (qwen, begun)]
    names = ("reasoning_format", "reasoning_in_content", "reasoning_budget_tokens", "enable_thinking")
    assert [[settings["params"][name] for name in names] for settings in shown] == [
        ["deepseek", False, -1, True],
        ["deepseek", False, 7, True],
    ]
    assert shown[1]["reasoning_budget_message"] == " Stop."
    assert qwen.get("/props")["chat_template_caps"]["supports_reasoning"]
