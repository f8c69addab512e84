"""Reads a secrets file, version "2", into what both published packages take as their auth."""

import json

from lonelypsp.auth.config import AuthConfigFromParts
from lonelypsp.auth.helpers.hmac_auth_config import (
    IncomingHmacAuthDBReentrantConfig,
    IncomingHmacAuthSqliteDBConfig,
    ToBroadcasterHmacAuth,
    ToSubscriberHmacAuth,
)
from lonelypsp.auth.helpers.none_auth_config import (
    ToBroadcasterNoneAuth,
    ToSubscriberNoneAuth,
)
from lonelypsp.auth.helpers.token_auth_config import (
    ToBroadcasterTokenAuth,
    ToSubscriberTokenAuth,
)


def read_auth(path: str | None, replay_db: str = ":memory:") -> AuthConfigFromParts:
    """Builds both directions; no file means no authorization.

    `replay_db` is where spent hmac codes are remembered, one store for both directions.
    """
    secrets = {}
    if path is not None:
        with open(path, encoding="utf-8") as file:
            secrets = json.load(file)
        if secrets.get("version") != "2":
            raise SystemExit(f"{path} is not a secrets file of version 2")
    replay = IncomingHmacAuthDBReentrantConfig(IncomingHmacAuthSqliteDBConfig(replay_db))

    def direction(name: str, none, token, hmac):
        entry = secrets.get(name, {"type": "none"})
        match entry["type"]:
            case "none":
                return none()
            case "token":
                return token(token=entry["secret"])
            case "hmac":
                return hmac(secret=entry["secret"], db_config=replay)
            case other:
                raise SystemExit(f"{path}: {name} is of the unknown type {other!r}")

    return AuthConfigFromParts(
        to_broadcaster=direction(
            "to-broadcaster",
            ToBroadcasterNoneAuth,
            ToBroadcasterTokenAuth,
            ToBroadcasterHmacAuth,
        ),
        to_subscriber=direction(
            "to-subscriber",
            ToSubscriberNoneAuth,
            ToSubscriberTokenAuth,
            ToSubscriberHmacAuth,
        ),
    )
