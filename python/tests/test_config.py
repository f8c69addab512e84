"""Configurations: what is taken, what is refused, and what is never shown."""

from __future__ import annotations

import base64
import json
import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from support import LISTEN

import httppubsub
import httppubsubclient.config
from httppubsub import (
    AuthConfig,
    ConfigError,
    HttpPubSubClient,
    HttpPubSubConfig,
    WebsocketPubSubClient,
    WebsocketPubSubConfig,
)

if TYPE_CHECKING:
    from pathlib import Path

KEY = base64.urlsafe_b64encode(b"\xfb" * 64).decode()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"broadcasters": []}, "no broadcaster"),
        ({"broadcasters": "http://b:1"}, "a sequence"),
        ({"broadcasters": ["http://b:1?q"]}, "query or a fragment"),
        ({"broadcasters": [{"url": "http://b:1"}]}, "a dict of `host`"),
        ({"broadcasters": [{"host": "http://b:1", "priority": -1}]}, "priority"),
        ({"broadcasters": [1]}, "a broadcaster is a url"),
        ({"passes": 0}, "`passes` must be at least 1"),
        ({"passes": 1.5}, "`passes` must be a number"),
        ({"queue_max": -1}, "`queue_max`"),
        ({"timeout": 0}, "`timeout` must be more than 0"),
        ({"timeout": math.nan}, "`timeout`"),
        ({"timeout": "1"}, "`timeout` must be a number"),
        ({"connect_timeout": -1.0}, "`connect_timeout`"),
        ({"close_timeout": True}, "`close_timeout`"),
        ({"send_auth": "secret"}, "`send_auth` must be an AuthConfig"),
    ],
)
def test_what_is_wrong_is_told_when_it_is_made(settings: dict[str, Any], words: str) -> None:
    for config in (HttpPubSubConfig, WebsocketPubSubConfig):
        with pytest.raises(ConfigError, match=words) as raised:
            config(**settings)
        assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gap_patience": -1.0}, "`gap_patience`"),
        ({"bind": {"type": "other"}}, "`bind` must be"),
        ({"bind": {"type": "listen", "port": 1}}, "an `address` and a `port`"),
        ({"bind": {**LISTEN, "port": 65_536}}, "`port` must be"),
        ({"bind": {**LISTEN, "address": "0.0.0.0"}}, "set `host`"),
        ({"bind": {"type": "manual", "callback": 1}}, "must be a function"),
        ({"bind": {"type": "manual", "callback": print}}, "set `host`"),
        ({"bind": LISTEN, "host": "http://me?q"}, "has a query"),
        ({"bind": LISTEN, "host": 1}, "`host` must be a url"),
        ({"reconcile_interval": 0}, "`reconcile_interval`"),
    ],
)
def test_a_wrong_bind_is_told_when_it_is_made(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        HttpPubSubConfig(**settings)


def test_both_spellings_of_an_address_are_taken() -> None:
    for kind in ("uvicorn", "listen"):
        for spelling in ("address", "host"):
            bind: Any = {"type": kind, spelling: "localhost", "port": 0}
            assert HttpPubSubConfig(bind=bind).bind == bind


def test_broadcasters_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPPUBSUB_BROADCASTER", "b:1, http://c?q")
    with pytest.raises(ConfigError, match="http://c"):
        HttpPubSubConfig()
    monkeypatch.setenv("HTTPPUBSUB_BROADCASTER", " ")
    assert HttpPubSubConfig().broadcasters is None


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    shown = []
    for auth in (AuthConfig.token("very-secret"), AuthConfig.hmac(KEY)):
        config = HttpPubSubConfig(send_auth=auth, receive_auth=auth)
        shown += [repr(auth), repr(config), str(config)]
        with pytest.raises((TypeError, pickle.PicklingError)) as cannot:
            pickle.dumps(auth)
        shown.append(str(cannot.value))
    for scheme, secret in ((AuthConfig.hmac, "very-secret"), (AuthConfig.token, "very-secret\n")):
        with pytest.raises(ConfigError) as raised:
            scheme(secret)
        shown.append(str(raised.value))
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps("very-secret"))
    with pytest.raises(ConfigError) as raised:
        httppubsub.get_auth_config_from_file(path)
    shown.append(str(raised.value))
    assert not [it for it in shown if "very-secret" in it or KEY in it]


def test_a_secrets_file_is_read_in_the_order_send_receive(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(
        json.dumps(
            {
                "version": "2",
                "to-broadcaster": {"type": "token", "secret": "to"},
                "to-subscriber": {"type": "none"},
            }
        )
    )
    send_auth, receive_auth = httppubsub.get_auth_config_from_file(path)
    assert repr(send_auth) == "<AuthConfig token>"
    assert repr(receive_auth) == "<AuthConfig none>"
    with pytest.raises(ConfigError, match="No such file"):
        httppubsub.get_auth_config_from_file(tmp_path / "missing")


def test_a_client_takes_its_own_configuration() -> None:
    with pytest.raises(TypeError, match="HttpPubSubConfig"):
        HttpPubSubClient(WebsocketPubSubConfig())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="WebsocketPubSubConfig"):
        WebsocketPubSubClient(HttpPubSubConfig())  # type: ignore[arg-type]


def test_published_settings_are_taken_by_the_published_name_only() -> None:
    published: dict[str, Any] = {
        "outgoing_retries_per_broadcaster": 3,
        "outgoing_retry_ambiguous": False,
        "message_body_spool_size": 7,
        "outgoing_http_timeout_total": 8.0,
        "outgoing_http_timeout_connect": None,
        "outgoing_http_timeout_sock_connect": 9.0,
        "outgoing_http_timeout_sock_read": 10.0,
    }
    for config in (
        httppubsubclient.config.HttpPubSubConfig(resubscribe_interval=6.0, **published),
        httppubsubclient.config.WebsocketPubSubConfig(**published),
    ):
        assert (config.passes, config.retry_ambiguous, config.spool_above) == (3, False, 7)
        assert (config.timeout, config.connect_timeout) == (8.0, 9.0)
    with pytest.raises(TypeError, match="twice"):
        httppubsubclient.config.HttpPubSubConfig(passes=1, outgoing_retries_per_broadcaster=1)
    with pytest.raises(TypeError):
        HttpPubSubConfig(**published)
