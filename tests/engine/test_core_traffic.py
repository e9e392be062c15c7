"""Random traffic: whatever comes together, every answer is the one its request gets alone, and nothing leaks."""

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from llamaserver.engine.slot_states import SlotState
from llamaserver.errors import ServerError
from llamaserver.interfaces.backend import Status
from llamaserver.interfaces.output import Embedded, Failed
from llamaserver.interfaces.params import GenerationParams, Media, SamplingParams
from llamaserver.interfaces.thinking import Mark, Thinking
from llamaserver.scheduling.request import ActiveRequest, Phase

from tests.support.engine.driver import GREEDY, Driver, make, outcome, solo
from tests.support.engine.toy import VOCAB, Failure, picture_keys

MANY = 150
N = VOCAB.n_vocab
TRUNK = tuple(2 + (i * 7) % (N - 2) for i in range(90))
PROMPTS = (TRUNK, TRUNK[:40] + TRUNK[60:] + TRUNK[:20], TRUNK[:5] + TRUNK[10:] + (3, 4, 5, 6, 7), (*TRUNK[1:], 9))
SAMPLINGS = (
    GREEDY,
    replace(GREEDY, ignore_eos=False),
    SamplingParams(seed=7, repeat_last_n=16),
    SamplingParams(seed=8, mirostat=2, temperature=1.0),
    SamplingParams(seed=9, thinking=Thinking(Mark(b"a", (2,)), Mark(b"stop", (38,)), begun=True, budget=9)),
)


@dataclass(frozen=True)
class Traffic:
    """One server and what happens to it."""

    unified: bool = False
    recurrent: bool = False
    n_slots: int = 2
    slot_ctx: int = 48
    extra_cells: int = 0
    spare: int = 0
    n_batch: int = 32
    n_ubatch: int = 16
    budget: int = 8
    cont_batching: bool = True
    context_shift: bool = True
    actions: tuple[tuple[Any, ...], ...] = ()

    def driver(self) -> Driver:
        """A fresh one."""
        return make(
            n_slots=self.n_slots,
            slot_ctx=self.slot_ctx,
            n_ctx=self.slot_ctx + self.extra_cells,
            unified=self.unified,
            spare=self.spare,
            prompt_budget=self.budget,
            cont_batching=self.cont_batching,
            context_shift=self.context_shift,
            backend={
                "n_lora": 1,
                "n_batch": self.n_batch,
                "n_ubatch": min(self.n_ubatch, self.n_batch),
                "partial_reuse": not self.recurrent,
            },
        )


@st.composite
def submissions(draw: st.DrawFn) -> tuple[Any, ...]:
    length = draw(st.one_of(st.integers(1, 20), st.integers(30, 90)))
    prompt = draw(st.sampled_from(PROMPTS))[:length] + tuple(draw(st.lists(st.integers(2, N - 1), max_size=3)))
    params = GenerationParams(
        n_predict=draw(st.one_of(st.integers(0, 6), st.integers(0, 60))),
        n_discard=draw(st.sampled_from((0, 0, 3))),
        id_slot=draw(st.sampled_from((-1, -1, -1, 0, 1))),
        cache_prompt=draw(st.sampled_from((True, True, True, False))),
        stop=draw(st.sampled_from(((), (), ("st",), ("xa", "b d")))),
        sampling=draw(st.sampled_from(SAMPLINGS)),
    )
    n_keep = draw(st.sampled_from((0, 0, 4, -1)))
    lora = draw(st.sampled_from(((0.0,), (0.0,), (0.5,))))
    return "submit", prompt, params, n_keep, lora, draw(st.sampled_from((b"", b"", b"cat", b"dogs")))


ACTIONS = st.one_of(
    submissions(),
    submissions(),
    st.tuples(st.just("step"), st.integers(1, 12)),
    st.tuples(st.sampled_from(("cancel", "vanish")), st.integers(0, 9)),
    st.tuples(st.sampled_from(("save", "restore", "erase")), st.integers(0, 3)),
    st.tuples(st.just("fail"), st.sampled_from(("ABORTED", "ABORTED", "NO_ROOM", "FATAL")), st.integers(0, 1)),
    st.tuples(st.just("rest"), st.integers(0, 9)),
    st.tuples(st.just("embed"), st.integers(1, 16)),
)
TRAFFIC = st.builds(
    Traffic,
    unified=st.booleans(),
    recurrent=st.sampled_from((False, False, False, True)),
    n_slots=st.integers(1, 4),
    slot_ctx=st.sampled_from((24, 48, 96)),
    extra_cells=st.sampled_from((0, 0, 10, 60)),
    spare=st.integers(0, 3),
    n_batch=st.sampled_from((4, 16, 64)),
    n_ubatch=st.sampled_from((4, 16, 64)),
    budget=st.sampled_from((2, 8, 32)),
    cont_batching=st.sampled_from((True, True, False)),
    context_shift=st.booleans(),
    actions=st.lists(ACTIONS, min_size=1, max_size=25).map(tuple),
)


@lru_cache
def vector(prompt: tuple[int, ...]) -> bytes:
    """What the same embedding request gets alone."""
    driver = make(n_slots=1, backend={"n_lora": 1})
    request = driver.submit(prompt, kind="embedding", cache_prompt=False, lora=(0.5,))
    driver.run()
    end = driver.last(request)
    assert isinstance(end, Embedded)
    return end.vectors.tobytes()


@dataclass
class Run:
    """Plays a Traffic."""

    traffic: Traffic
    requests: list[ActiveRequest] = field(default_factory=list)
    expected: dict[ActiveRequest, Any] = field(default_factory=dict)
    left: list[ActiveRequest] = field(default_factory=list)  # gone, but the engine has not heard yet
    saved: SlotState = field(default_factory=lambda: SlotState((), b"", (0.0,)))
    failing: bool = False

    def __post_init__(self) -> None:
        self.driver = self.traffic.driver()

    def play(self) -> None:
        for name, *values in self.traffic.actions:
            getattr(self, name)(*values)
            self.driver.check()
        self.hear()
        for request in self.requests:
            request.client.taken = request.client.emitted
        self.driver.run()
        self.driver.check_idle()

    def submit(
        self, prompt: tuple[int, ...], params: GenerationParams, n_keep: int, lora: tuple[float, ...], picture: bytes
    ) -> None:
        if params.id_slot >= self.traffic.n_slots:
            params = replace(params, id_slot=-1)
        media: tuple[Media, ...] = ()
        if picture:
            media = (Media(2, len(picture), len(picture), picture),)
            prompt = (5, 6, *picture_keys(picture), *prompt)
        prompt = prompt[: self.traffic.slot_ctx - 1]
        n_keep = len(prompt) if n_keep < 0 else min(n_keep, self.traffic.slot_ctx - 4)
        request = self.driver.submit(prompt, params=params, n_keep=n_keep, lora=lora, media=media)
        self.requests.append(request)
        self.expected[request] = partial(
            solo,
            prompt,
            replace(params, id_slot=-1, cache_prompt=True),
            slot_ctx=self.traffic.slot_ctx,
            n_keep=n_keep,
            lora=lora,
            media=media,
            context_shift=self.traffic.context_shift,
        )

    def embed(self, length: int) -> None:
        traffic = self.traffic
        prompt = PROMPTS[1][: min(length, traffic.n_batch, traffic.n_ubatch)]
        request = self.driver.submit(prompt, kind="embedding", cache_prompt=False, lora=(0.5,))
        self.requests.append(request)
        self.expected[request] = partial(vector, prompt)

    def step(self, count: int) -> None:
        for number in range(count):
            self.driver.step()
            if number == 1:
                self.hear()

    def cancel(self, index: int) -> None:
        if index < len(self.requests):
            self.requests[index].client.cancelled = True
            self.driver.core.cancel(self.requests[index])

    def vanish(self, index: int) -> None:
        if index < len(self.requests):
            self.requests[index].client.cancelled = True
            self.left.append(self.requests[index])

    def hear(self) -> None:
        for request in self.left:
            self.driver.core.cancel(request)
        self.left.clear()

    def rest(self, index: int) -> None:
        """A client that has read nothing for long."""
        if index < len(self.requests):
            self.requests[index].client.taken -= 1000

    def fail(self, status: str, micro_batches: int) -> None:
        failure = Failure(Status[status], micro_batches)
        self.driver.backend.failures[len(self.driver.backend.history)] = failure
        self.failing = self.failing or status != "ABORTED"

    def save(self, index: int) -> None:
        slot = self.driver.core.residents.slots[index % self.traffic.n_slots]
        if not slot.busy and slot.resident:
            try:
                self.saved = self.driver.core.slot_states.save(slot)
            except ServerError:
                self.failing = self.failing or True

    def restore(self, index: int) -> None:
        slot = self.driver.core.residents.slots[index % self.traffic.n_slots]
        if not slot.busy:
            try:
                self.driver.core.slot_states.restore(slot, self.saved)
            except ServerError:
                self.failing = self.failing or True

    def erase(self, index: int) -> None:
        slot = self.driver.core.residents.slots[index % self.traffic.n_slots]
        if not slot.busy:
            self.driver.core.slot_states.erase(slot)


def check(traffic: Traffic) -> None:
    """Play it. Compare every answer with the one its request gets alone."""
    note(str(traffic).replace(str(GREEDY), "GREEDY"))
    run = Run(traffic)
    run.play()
    for request in run.requests:
        assert request.phase is Phase.DONE
        end = run.driver.last(request)
        if isinstance(end, Failed):
            assert run.failing, end.error
        elif end is None:
            assert request.client.cancelled
        elif isinstance(end, Embedded):
            assert end.vectors.tobytes() == run.expected[request]()
        else:
            assert outcome(run.driver, request) == run.expected[request]()
    assert run.failing or not any(one.status is Status.NO_ROOM for one in run.driver.backend.history)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TRAFFIC)
def test_every_answer_is_the_one_its_request_gets_alone(traffic: Traffic) -> None:
    check(traffic)


# ---- the same under pressure: hypothesis prefers small examples, which seldom fill a cache


def heavy_request(random: Random, slot_ctx: int) -> tuple[Any, ...]:
    length = random.choice((random.randint(1, 12), random.randint(slot_ctx // 2, slot_ctx)))
    params = GenerationParams(
        n_predict=random.choice((0, 3, 20, slot_ctx, 2 * slot_ctx)),
        n_discard=random.choice((0, 0, 3)),
        id_slot=random.choice((-1, -1, -1, -1, 0, 1, 2)),
        cache_prompt=random.random() < 0.9,
        stop=random.choice(((), (), ("st",), ("xa", "b d"))),
        sampling=random.choice(SAMPLINGS),
    )
    prompt = random.choice(PROMPTS[:3])[:length] + tuple(random.choices(range(2, N), k=random.randint(0, 2)))
    lora = random.choice(((0.0,), (0.0,), (0.0,), (0.5,)))
    return "submit", prompt, params, random.choice((0, 0, 4, -1)), lora, random.choice((b"",) * 8 + (b"cat", b"dogs"))


def heavy_action(random: Random, slot_ctx: int) -> tuple[Any, ...]:
    dice = random.random()
    if dice < 0.4:
        return heavy_request(random, slot_ctx)
    if dice < 0.8:
        return "step", random.choice((1, 2, 5, 20))
    return random.choice(
        (
            ("cancel", random.randint(0, 9)),
            ("vanish", random.randint(0, 9)),
            ("rest", random.randint(0, 9)),
            ("fail", "ABORTED", random.randint(0, 1)),
            ("fail", random.choice(("NO_ROOM", "FATAL")), random.randint(0, 1)),
            ("embed", random.randint(1, 16)),
            (random.choice(("save", "restore", "erase")), random.randint(0, 3)),
        )
    )


def heavy_traffic(random: Random) -> Traffic:
    slot_ctx = random.choice((24, 48, 96))
    return Traffic(
        unified=random.random() < 0.6,
        recurrent=random.random() < 0.15,
        n_slots=random.randint(1, 4),
        slot_ctx=slot_ctx,
        extra_cells=random.choice((0, 0, 1, slot_ctx // 2, 3 * slot_ctx)),
        spare=random.randint(0, 3),
        n_batch=random.choice((4, 16, 64, 64)),
        n_ubatch=random.choice((4, 16, 64)),
        budget=random.choice((2, 8, 32)),
        cont_batching=random.random() < 0.8,
        context_shift=random.random() < 0.8,
        actions=tuple(heavy_action(random, slot_ctx) for _ in range(random.randint(10, 40))),
    )


@settings(max_examples=MANY, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**64))
def test_every_answer_stays_the_same_when_the_cache_is_full(seed: int) -> None:
    check(heavy_traffic(Random(seed)))
