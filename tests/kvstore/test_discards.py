"""The reasons of discards, and their place in the documents."""

from pathlib import Path

from llamaserver.kvstore import discards

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def test_the_page_has_the_reasons_of_the_code() -> None:
    page = PAGE.read_text()
    assert page == discards.updated(page), "run: make generate"
    assert discards.BEGIN in page


def test_a_reason_equals_its_word() -> None:
    assert discards.Discard.DISK_FULL == "disk_full"
    assert str(discards.Discard("disk_full")) == "disk_full"


def test_what_surrounds_the_tables_stays() -> None:
    page = f"before\n{discards.BEGIN}\nold\n{discards.END}\nafter\n"
    assert discards.updated(page) == f"before\n{discards.markdown()}\nafter\n"
