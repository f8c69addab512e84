"""Clients, under the names of the first README and of the published client."""

from httppubsub import (
    CloseError,
    HttpPubSubClient,
    Message,
    NotifyResult,
    PubSubClient,
    PubSubError,
    Subscription,
    WebsocketPubSubClient,
)
from httppubsub import ConnectionAbandonedError as PubSubRequestConnectionAbandonedError
from httppubsub import RequestAmbiguousError as PubSubRequestAmbiguousError
from httppubsub import RequestError as PubSubRequestError
from httppubsub import RequestRefusedError as PubSubRequestRefusedError
from httppubsub import RequestRetriesExhaustedError as PubSubRequestRetriesExhaustedError

__all__ = [
    "CloseError",
    "HttpPubSubClient",
    "Message",
    "NotifyResult",
    "PubSubClient",
    "PubSubError",
    "PubSubRequestAmbiguousError",
    "PubSubRequestConnectionAbandonedError",
    "PubSubRequestError",
    "PubSubRequestRefusedError",
    "PubSubRequestRetriesExhaustedError",
    "Subscription",
    "WebsocketPubSubClient",
]
