"""Import grpc without OpenSSL: asyncio, which grpc imports and we never run, would bring it along.

asyncio does without it where Python was built without ssl. Not loading it saves 5 MiB of memory, and 15 ms of a start.
"""

import sys


def import_grpc() -> None:
    """To be called before the first import of grpc; `import ssl` works as ever afterwards.

    None in `sys.modules` makes an import fail (Python, The import system, The module cache).
    """
    if "ssl" in sys.modules or "grpc" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment] # typed for modules alone
    try:
        import grpc  # noqa: F401 - for its effect on sys.modules
    finally:
        del sys.modules["ssl"]
