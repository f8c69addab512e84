"""What the published packages cannot do by themselves, and what these peers do about it.

This is the one list of it; other files refer here by the letter. The defects themselves are
written down, with their numbers (S1, A10, H3, ...), in the protocol documents.

a. Debian's SQLite compares no BLOB in LIKE and GLOB (`LIKE_DOESNT_MATCH_BLOBS`), and lonelypss
   binds topics as BLOBs, so that no glob ever matches (S1). `use_a_sqlite_that_globs_blobs` puts
   `pysqlite3` in the place of `sqlite3` where that is so; call it before importing lonelypss.
b. The `main.py` that `lonelypss --setup` writes raises when it is started (A10): it passes no
   `tracing`, passes a keyword-only token by position, and with hmac towards subscribers only uses
   a name it never defined. `broadcaster.py` therefore builds its configuration by hand.
c. `AuthConfigFromParts` takes its parts in another order than the README of lonelypsc says (A11).
   These peers name both.
d. A second attempt of a NOTIFY sends a body cut short and hangs until the total time-out (H3).
   `client.py` asks for one attempt a broadcaster, so that a failure is reported at once.
e. A MISSED is due at once whatever the retry settings say, is repeated up to `max_retries` times
   in a row, and is followed by the deletion of the subscription (S5). `broadcaster.py` keeps
   `max_retries` small; a test must not count on rows of a subscriber that failed once.
f. On Python 3.13 and newer the client matches globs with `glob.translate`, where `*` stops at a
   slash. The tests therefore want Python 3.11 or 3.12, where it is `fnmatch`.
g. The "simple" tracing is the only one the client can be given. It wants a database of its own;
   `client.py` gives it one in memory.
h. The client's own uvicorn binding cannot be told to choose a free port, nor does it tell when it
   listens. `serving.py` binds the socket itself and says so once the server accepts.
"""

import importlib
import sqlite3
import sys


def use_a_sqlite_that_globs_blobs() -> None:
    """Replaces `sqlite3` by `pysqlite3` if the former matches no BLOB (workaround a)."""
    if globs_blobs(sqlite3):
        return
    replacement = importlib.import_module("pysqlite3")
    if not globs_blobs(replacement):
        raise RuntimeError("neither sqlite3 nor pysqlite3 matches a BLOB with GLOB")
    sys.modules["sqlite3"] = replacement
    sys.modules["sqlite3.dbapi2"] = importlib.import_module("pysqlite3.dbapi2")


def globs_blobs(module) -> bool:
    """Says whether this build of SQLite lets a BLOB match a glob."""
    connection = module.connect(":memory:")
    try:
        return connection.execute("SELECT X'61' GLOB 'a'").fetchone()[0] == 1
    finally:
        connection.close()
