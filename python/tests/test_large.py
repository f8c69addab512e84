"""Messages that are larger than the memory that may be used for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support import PATIENCE
from test_life import HEAD, run_script

if TYPE_CHECKING:
    from pathlib import Path

    from httppubsub.testing import TestBroadcaster

MIB = 1024 * 1024
RESIDENT_MIB_MAX = 100


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "mib",
    [
        192,
        # `python -m pytest -m slow`; it takes minutes, and 10 GiB of disk.
        pytest.param(5 * 1024, marks=pytest.mark.slow),
    ],
)
async def test_large_messages_are_not_in_memory(
    mib: int, broadcaster: TestBroadcaster, tmp_path: Path
) -> None:
    if not os.path.exists("/proc/self/status"):
        pytest.skip("nothing tells how much memory was used")
    file = tmp_path / "large"
    with open(file, "wb") as large:
        large.truncate(mib * MIB)
    script = (
        HEAD
        + f"""
import hashlib

async def main():
    async with client_of("listen", broadcaster, timeout=None) as client:
        async with client.subscribe_exact("a") as subscription:
            with open({str(file)!r}, "rb") as file:
                result = await client.notify(topic="a", sync_file=file)
                assert file.tell() == {mib * MIB}
            assert result.notified == 1
            message = await anext(aiter(subscription))
            digest = await asyncio.to_thread(hashlib.file_digest, message.data, "sha512")
            assert digest.digest() == message.sha512 == result.sha512

asyncio.run(main())
with open("/proc/self/status") as status:
    (resident,) = [line.split()[1] for line in status if line.startswith("VmHWM:")]
print(int(resident) // 1024)
"""
    )
    status, out, err = await run_script(script, broadcaster, patience=PATIENCE + mib)
    assert (status, err) == (0, "")
    assert int(out) < RESIDENT_MIB_MAX
