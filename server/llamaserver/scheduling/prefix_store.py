"""What the scheduler needs of a store that saves prefixes outside the context."""

from typing import Protocol

from ..kvstore.discards import Discard
from ..kvstore.messages import Offer
from .request import ActiveRequest
from .residents import Resident


class PrefixStore(Protocol):
    """The store's client. The scheduler calls it, on the engine thread."""

    def answered(self, request: ActiveRequest) -> bool:
        """Whether the request need not wait for the store any longer."""

    def delays_eviction(self, resident: Resident) -> bool:
        """Whether an eviction of this resident should wait for a step, so that it can be saved first."""

    def load(self, request: ActiveRequest, offer: Offer, resident: Resident) -> bool:
        """Load the state offered to the request into an empty resident. Returns False when it does not fit."""

    def drop_lookup(self, request: ActiveRequest, reason: Discard = Discard.UNWANTED) -> None:
        """Drop the question and the offer of a request. `reason` is counted if the offer was not used."""
