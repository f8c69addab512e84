"""Configurations, under the names of the first README; the published settings are taken, too."""

from __future__ import annotations

from typing import Any

import httppubsub
from httppubsub import (
    AuthConfig,
    BroadcasterConfig,
    HttpPubSubBindConfig,
    HttpPubSubBindListenConfig,
    HttpPubSubBindManualConfig,
    HttpPubSubBindUvicornConfig,
    get_auth_config_from_file,
)

__all__ = [
    "AuthConfig",
    "BroadcasterConfig",
    "HttpPubSubBindConfig",
    "HttpPubSubBindListenConfig",
    "HttpPubSubBindManualConfig",
    "HttpPubSubBindUvicornConfig",
    "HttpPubSubConfig",
    "WebsocketPubSubConfig",
    "get_auth_config_from_file",
]

_PUBLISHED = {
    "outgoing_retries_per_broadcaster": "passes",
    "outgoing_retry_ambiguous": "retry_ambiguous",
    "resubscribe_interval": "reconcile_interval",
    "message_body_spool_size": "spool_above",
    "outgoing_http_timeout_total": "timeout",
    "outgoing_http_timeout_connect": "connect_timeout",
    "outgoing_http_timeout_sock_connect": "connect_timeout",
}

# Bounded by the time-out of the whole request.
_WITHOUT_MEANING = {"outgoing_http_timeout_sock_read"}


class HttpPubSubConfig(httppubsub.HttpPubSubConfig):
    """``httppubsub.HttpPubSubConfig``, with the settings of the published package as well."""

    def __init__(self, **settings: Any) -> None:
        """Take the settings of either."""
        super().__init__(**_translated(settings))


class WebsocketPubSubConfig(httppubsub.WebsocketPubSubConfig):
    """``httppubsub.WebsocketPubSubConfig``, with the settings of the published package as well."""

    def __init__(self, **settings: Any) -> None:
        """Take the settings of either."""
        super().__init__(**_translated(settings))


def _translated(settings: dict[str, Any]) -> dict[str, Any]:
    translated: dict[str, Any] = {}
    for name, value in settings.items():
        if name in _WITHOUT_MEANING:
            continue
        ours = _PUBLISHED.get(name, name)
        if ours in translated and ours not in ("connect_timeout",):
            raise TypeError(f"`{ours}` is given twice")
        if ours in translated and (value is None or translated[ours] is None):
            # The shorter of both counts, and `None` is for ever.
            value = translated[ours] if value is None else value
        elif ours in translated:
            value = min(value, translated[ours])
        translated[ours] = value
    return translated
