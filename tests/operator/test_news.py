"""The events of an object that cause a reconcile."""

from typing import Any

from llamaserver_operator.handlers import News

KEY = ("models", "demo")


def event(kind: str | None, uid: str = "a", generation: int = 1, **more: Any) -> dict[str, Any]:
    metadata = {"uid": uid, "generation": generation, **more.pop("metadata", {})}
    return {"type": kind, "object": {"metadata": metadata, **more}}


def test_only_a_change_of_the_status_is_ignored() -> None:
    news = News()
    assert news.is_news(KEY, event(None)), "listed at the start"
    assert not news.is_news(KEY, event("MODIFIED", status={"download": {"bytes": 1}}))
    assert not news.is_news(KEY, event(None, status={"download": {"bytes": 2}})), "listed anew, as streams end"
    assert news.is_news(KEY, event("MODIFIED", generation=2))
    assert not news.is_news(KEY, event("MODIFIED", generation=2, status={}))
    assert news.is_news(KEY, event("MODIFIED", generation=2, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    assert news.is_news(KEY, event("DELETED", generation=2))


def test_another_object_of_the_same_name_is_news() -> None:
    news = News()
    assert news.is_news(KEY, event("ADDED"))
    assert news.is_news(KEY, event("ADDED", uid="b")), "its end was missed"
    assert news.is_news(KEY, event("DELETED", uid="b"))
    assert news.is_news(KEY, event("ADDED", uid="b"))
    assert news.is_news(("models", "other"), event("ADDED", uid="b"))
