"""The answer of /completion. Other dialects show it as `__verbose`, as llama-server does."""

from typing import Any

from .answer import Answer, probabilities_json, timings_json
from .jobs import Job


def native_json(job: Job, answer: Answer, index: int) -> dict[str, Any]:
    """The fields of an answer of /completion."""
    finish = answer.finish
    value: dict[str, Any] = {
        "index": index,
        "content": answer.content,
        "id_slot": finish.id_slot,
        "stop": True,
        "model": job.settings["model"],
        "tokens_predicted": finish.n_decoded,
        "tokens_evaluated": finish.n_prompt,
        "generation_settings": job.settings,
        "prompt": job.prompt,
        "has_new_line": finish.has_new_line,
        "truncated": finish.truncated,
        "stopped_eos": finish.reason == "eos",
        "stopped_word": finish.reason == "word",
        "stopped_limit": finish.reason == "limit",
        "stop_type": finish.reason or "none",
        "stopping_word": finish.stopping_word,
        "tokens_cached": finish.n_cached,
        "timings": timings_json(finish.timings),
    }
    if job.request.params.return_tokens:
        value["tokens"] = answer.tokens
    if job.request.params.sampling.n_probs:
        value["completion_probabilities"] = probabilities_json(answer.probs)
    return value
