#!/usr/bin/env python3
"""Writes the seed inputs of the fuzz targets, from the recorded vectors. Run it after they changed."""

import hashlib
import json
import pathlib
import shutil
import struct

HERE = pathlib.Path(__file__).resolve().parent
VECTORS = HERE.parent / "crates/proto/tests/vectors"
SEEDS = HERE / "seeds"


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    for target, seeds in {
        "decode_messages": messages(),
        "set_lists": set_lists(),
        "authorization_header": authorization_headers(),
        "repr_digest": repr_digests(),
        "urls": urls(),
        "globs": globs(),
        "secrets": secrets(),
        "websocket_messages": websocket_messages(),
        "websocket_session": websocket_sessions(),
    }.items():
        folder = SEEDS / target
        folder.mkdir(parents=True)
        for seed in seeds:
            (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
        files = list(folder.iterdir())
        print(f"{target}: {len(files)} seeds, {sum(it.stat().st_size for it in files)} bytes")


def messages():
    """One body of each kind, taken and refused; those with signatures look like those without."""
    for request in load("requests.json")["requests"]:
        if request["mode"] == "none":
            yield bytes.fromhex(request["request"]["body"])
    for step in load("broadcaster.json")["steps"]:
        yield bytes.fromhex(step["body"])
        yield bytes.fromhex(step["expected"].get("body", ""))
    for case in load("broadcaster.json")["authorized"]["cases"]:
        if case["mode"] == "token":
            yield bytes.fromhex(case["expected"].get("body", ""))
    for message in load("deliveries.json")["sent"]["messages"]:
        if message["mode"] == "none":
            yield bytes.fromhex(message["request"]["body"])
    for case in load("deliveries.json")["answers_to_receive"]["cases"]:
        if isinstance(case["answer"], dict):
            yield bytes.fromhex(case["answer"]["body_for_identifier_0000000000000000"])
    for case in load("subscriber.json")["cases"]:
        yield bytes.fromhex(case["body"])
        yield bytes.fromhex(case["expected"].get("body", ""))
    for case in load("tracing.json")["cases"]:
        yield bytes.fromhex(case["tracing"])


def set_lists():
    for case in load("etags.json")["cases"]:
        if len(case["document"]) < 4_000:
            yield lists(
                [(row["topic"], row["recovery"]) for row in case["exact"]],
                [(row["glob"], row["recovery"]) for row in case["globs"]],
            )
    for case in load("etags.json")["rejected"]:
        yield lists([(it, None) for it in case["exact"]], [(it, None) for it in case["globs"]])


def lists(*both):
    out = b""
    for entries in both:
        out += struct.pack(">I", len(entries))
        for entry, recovery in entries:
            out += field(entry) + field(recovery or "")
    return out


def field(digits):
    value = bytes.fromhex(digits)
    return struct.pack(">H", len(value)) + value


def authorization_headers():
    for case in load("auth_headers.json")["cases"]:
        yield (case["authorization"] or "").encode()
    for step in load("auth_headers.json")["replay"]["steps"]:
        yield step["authorization"].encode()
    for place in (0, 60, 400, 900):
        yield bytes(range(12)) + struct.pack(">I", place << 16) + b"http://127.0.0.1:3002"


def repr_digests():
    for case in load("subscriber.json")["repr_digest"]["cases"]:
        yield case["repr_digest"].encode()


def urls():
    for case in load("requests.json")["client_urls"]:
        yield from (case[name].encode() for name in ("host", "receive", "recovery"))
    yield from (
        b"",
        b"unix:/tmp/socket",
        b"file:///etc/passwd",
        b"http://",
        b"http://me:secret@host/",
        b"http://[::1]:8443/a/../b//c?d=e&f#g",
        b"HTTPS://EXAMPLE.com:443/%7euser/%2e%2e/x",
        b"http://0x7f.1/",
        "http://hôst.example/päth?q=ü#é".encode(),
        b"http://host:65536/",
        b"http:\\\\host\\path",
        b"http:host",
        b"http://host?q='\"<>`{}|^",
    )


def globs():
    """The pairs on which matchers differ, and a few of the others."""
    cases = load("globs.json")["cases"]
    for number, case in enumerate(cases):
        if not case["agree"] or number % 8 == 0:
            yield bytes.fromhex(case["pattern"]) + b"\xff" + bytes.fromhex(case["topic"])
    # Longer than the matcher's machine words.
    yield b"*" + b"?" * 70 + b"[b]*\xff" + b"a" * 70 + b"b"
    yield b"*[ab]" * 40 + b"\xff" + b"ab" * 40


def secrets():
    for case in load("secrets.json")["cases"]:
        yield case["file"].encode()


def websocket_messages():
    """All but the longest, with signatures of one kind only."""
    for name in ("messages_s2b", "messages_b2s", "parse_accept", "parse_reject"):
        for case in load(f"stateful/{name}.json")["vectors"]:
            message = bytes.fromhex(joined(case["hex"]))
            if len(message) < 1_000 and b"X-HMAC" not in message:
                yield message


def websocket_sessions():
    """Short conversations, in the numbers of `World::step`, with every kind of settings."""
    up, down = b"\0", b"\1"
    exact, glob = b"\0\0", b"\1\1"
    small, large, squeezed = b"\0\5\0\x14", b"\0\5\x08\0", b"\3\5\0\x32\0\x64"
    subscribe = b"\x08" + exact + b"\x08" + glob + up * 2 + b"\x0d\1" + b"\x0d\0" + down * 2
    unsubscribe = b"\x09" + exact + up + b"\x0d\0" + down
    notify = b"\x0a" + small + b"\0" + up + b"\x0e\0\7" + down
    notify_stream = b"\x0a" + large + b"\0" + up * 4 + b"\x0e\0\7" + down * 4
    deliver = b"\x0f" + small + b"\0" + down + b"\x0b\0" + up
    deliver_stream = b"\x0f" + large + b"\0" + (down + up) * 4 + b"\x0b\0" + up
    missed = b"\x10\0" + down
    enable = b"\x11\1\0\3\x0a\3" + b"\x11\3\4dict\0\3\x0a\2" + down * 2
    compressed = b"\x0a" + squeezed + b"\0" + up + b"\x0e\0\7" + down + b"\x0f" + squeezed
    compressed += b"\0" + down + b"\x0b\0" + up
    disable = b"\x12\3" + down + deliver
    late = b"\x13\x27\x10\x14\x27\x10"
    configure = up + b"\x0c" + down
    forged = (
        b"\4\1" + exact + b"\4\3\1\0" + small + b"\4\4\0\0\0\x14\0\x0a\1\5hello\4\4\1\5again",
        b"\x0f" + large + b"\0" + b"\4\5\1\0" + b"\4\5\1\1" + b"\4\6\1\1",
        b"\5\5\0\0\0\x14\0\x0a\1\5hello" + b"\5\5\1\5again" + b"\x0b\0" + up,
        b"\5\6\1\0\3\x0a\3\0" + b"\5\7\3\0\3\x0a\3\4dict" + b"\5\x08\3" + b"\5\x09\0",
        b"\x08" + exact + b"\5\1" + exact + b"\0",
        b"\x0a" + small + b"\0" + b"\5\3\1\0" + small + b"\7",
        b"\x0a" + large + b"\0" + b"\5\4\1\0" + b"\5\4\1\1",
        b"\x0a" + small + b"\0" + b"\6\1\0\0" + up * 2,
        b"\x0f" + small + b"\0" + b"\7\2\1\0" + down,
        b"\2\4\0\1\0\2" + b"\3\4\0\1\0\x0d",
    )
    everything = subscribe + notify + enable + compressed + notify_stream + deliver_stream + missed
    everything += disable + unsubscribe
    for settings in range(64):
        yield bytes([settings]) + everything
    for settings in (0, 1, 2, 3, 4, 8):
        for talk in (notify_stream, deliver_stream, enable + compressed + disable, *forged):
            yield bytes([settings]) + talk
        for talk in (late, configure + everything, up + late, up + b"\x0c" + late + down):
            yield bytes([settings + 64]) + talk
        for forgery in (b"\4\0\1\1\2\x0c", b"\5\0", *forged):
            yield bytes([settings + 64]) + forgery


def joined(digits):
    """Hex in pieces, some of which are repeated."""
    if isinstance(digits, str):
        return digits
    if isinstance(digits, dict):
        return digits["repeat"] * digits["times"]
    return "".join(joined(piece) for piece in digits)


def load(name):
    return json.loads((VECTORS / name).read_text())


if __name__ == "__main__":
    main()
