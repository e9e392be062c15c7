"""What our decode of images puts into the cache is what the library's own helpers put there."""

import io
from concurrent.futures import CancelledError

import numpy as np
import pytest
from llamaserver.interfaces.backend import Batch, Status
from llamaserver.interfaces.params import Prompt
from llamaserver.llama import media
from llamaserver.llama.backend import LlamaBackend
from llamaserver.llama.pixels import rgb
from PIL import ExifTags, Image

from tests.support.engine.native_media import last_logits
from tests.support.engine.options import load_options
from tests.support.images import encoded, png
from tests.support.models import Models

pytestmark = pytest.mark.model


def load(models: Models, name: str, **options: int) -> LlamaBackend:
    model, projector = str(getattr(models, name)()), str(models.projector_of(name))
    return LlamaBackend(load_options(model, mmproj=projector, ctx_size=1024, **options), lambda _: True)


def evaluate(backend: LlamaBackend, prompt: Prompt) -> np.ndarray:
    """Logits of the last position, rows and images decoded one after the other."""
    at, row = 0, -1
    while at < len(prompt):
        media = next((item for item in prompt.media if item.start == at), None)
        if media:
            assert backend.decode_media(media, at, 0) is Status.OK
            at, row = at + media.n_pos, -1
            continue
        end = min([item.start for item in prompt.media if item.start > at], default=len(prompt))
        batch = Batch()
        for position in range(at, end):
            row = batch.add(prompt.keys[position], position, 0, position == end - 1)
        assert backend.decode(batch) is Status.OK
        at = end
    return backend.logits(row).copy()


@pytest.mark.parametrize("name", ["llama", "idefics3", "qwen2vl"])
@pytest.mark.parametrize("ubatch", [512, 8])
def test_same_logits_as_the_library(models: Models, name: str, ubatch: int) -> None:
    images = [png(1, 70, 50), png(2)]
    backend = load(models, name, batch_size=max(ubatch, 64), ubatch_size=ubatch)
    try:
        prompt = backend._projector.build(["the ", images[0], " and ", images[1], " now"], add_special=True)
        ours = evaluate(backend, prompt)
    finally:
        backend.close()
    paths = getattr(models, name)(), models.projector_of(name)
    theirs = last_logits(*paths, "the <__media__> and <__media__> now", images)
    np.testing.assert_allclose(ours, theirs, atol=0.05, rtol=0)
    other = last_logits(*paths, "the <__media__> and <__media__> now", images[::-1])
    assert np.abs(ours - other).max() > 0.5


def stored_like(picture: bytes, kind: str) -> tuple[bytes, bytes]:
    """A file, and a plain one of what a viewer shows of it."""
    upright = Image.open(io.BytesIO(picture)).convert("RGB")
    buffer = io.BytesIO()
    if kind == "turned":
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
        return buffer.getvalue(), picture
    grey = upright.convert("L")
    if kind == "transparent":
        drawing = Image.new("RGBA", upright.size, (0, 0, 0, 0))
        drawing.putalpha(grey)
        return encoded(drawing), encoded(Image.eval(grey, lambda alpha: 255 - alpha).convert("RGB"))
    deep = np.asarray(grey).astype(np.uint16) * 257
    return encoded(Image.fromarray(deep)), encoded(grey.convert("RGB"))


@pytest.mark.parametrize("kind", ["turned", "transparent", "sixteen bits"])
def test_the_model_sees_what_a_viewer_shows(models: Models, kind: str) -> None:
    """Also the library, which gets the plain file here; and another picture is told apart."""
    backend = load(models, "llama")
    try:
        stored, plain = stored_like(png(1, 70, 50), kind)
        prompts = [backend._projector.build(["the ", one, " now"], add_special=True) for one in (stored, plain)]
        assert prompts[0].keys == prompts[1].keys  # so that one's cached state serves for the other
        ours = evaluate(backend, prompts[0])
    finally:
        backend.close()
    paths = models.llama(), models.projector_of("llama")
    np.testing.assert_allclose(ours, last_logits(*paths, "the <__media__> now", [plain]), atol=0.05, rtol=0)
    assert np.abs(ours - last_logits(*paths, "the <__media__> now", [png(2, 70, 50)])).max() > 0.5


def test_image_is_gone_after_an_abort(models: Models) -> None:
    """An abort that is already there when the image comes leaves nothing in the cache."""
    backend = load(models, "llama")
    try:
        prompt = backend._projector.build(["the ", png(1), " now"], add_special=True)
        (media,) = prompt.media
        backend.abort(True)
        assert backend.decode_media(media, 0, 0) is Status.ABORTED
        assert backend.pos_max(0) == -1
        backend.abort(False)
        after = evaluate(backend, prompt)
        backend.seq_rm(0, 0)
        np.testing.assert_array_equal(after, evaluate(backend, prompt))
    finally:
        backend.close()


def test_keys_tell_pictures_and_places_apart(models: Models) -> None:
    backend = load(models, "llama")
    try:
        one, again, other = (backend._projector.build(["a ", png(seed), " b"], add_special=True) for seed in (1, 1, 2))
        both = backend._projector.build([png(1), png(1)], add_special=True)
    finally:
        backend.close()
    assert one.keys == again.keys != other.keys
    media = one.media[0]
    piece = one.keys[media.start : media.start + media.n_pos]
    assert max(piece) < 0
    assert len(set(piece)) == media.n_pos
    assert not set(piece) & set(other.keys[media.start : media.start + media.n_pos])
    assert len(set(both.keys)) == len(both.keys)


def test_equal_images_of_a_request_are_decoded_once(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(media, "rgb", lambda image: seen.append(1) or rgb(image))
    backend = load(models, "llama")
    try:
        decoded: dict[bytes, object] = {}
        parts = [png(1), " and ", png(1), " and ", png(2)]
        first = backend._projector.build(parts, add_special=True, decoded=decoded)
        again = backend._projector.build(parts, add_special=True, decoded=decoded)
        assert len(seen) == len(decoded) == 2
        assert first.keys == again.keys
        assert first.keys == backend._projector.build(parts, add_special=True).keys
        assert len(seen) == 4
    finally:
        backend.close()


TEXTS = ("", "a", "the ", "</s>", " </s></s> one ", "<s>", "\n\n", "one two " * 1500, "</s>two" * 1500)


@pytest.mark.parametrize("name", ["llama", "idefics3", "qwen2vl"])
def test_texts_have_the_tokens_that_the_library_gives_them(models: Models, name: str) -> None:
    backend = load(models, name)
    projector, images = backend._projector, [png(1, 70, 50), png(2)]
    assert projector._stand_in >= 0
    try:
        for first, second in ((one, other) for one in TEXTS for other in TEXTS):
            parts = [first, images[0], second, images[1], first]
            ours = projector.build(parts, add_special=True)
            own, projector._stand_in = projector._stand_in, -1
            theirs = projector.build(parts, add_special=True)
            projector._stand_in = own
            assert ours.keys == theirs.keys, (first[:20], second[:20])
            assert [item.start for item in ours.media] == [item.start for item in theirs.media]
    finally:
        backend.close()


def test_long_texts_beside_images_can_be_cancelled(models: Models) -> None:
    backend = load(models, "llama")
    looks = iter(range(10_000))
    try:
        with pytest.raises(CancelledError):
            backend._projector.build(["</s>a" * 100_000, png(1)], add_special=True, cancelled=lambda: next(looks) > 3)
    finally:
        backend.close()
