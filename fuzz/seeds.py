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
