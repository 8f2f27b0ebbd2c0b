"""grpc without OpenSSL, and with it where it is there already. In processes of their own: an import happens once."""

import subprocess
import sys


def ran(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_grpc_comes_without_openssl_and_works() -> None:
    code = (
        "import sys; from nodelib.lean_grpc import import_grpc; import_grpc(); import grpc;"
        "print('ssl' in sys.modules, '_ssl' in sys.modules);"
        "channel = grpc.insecure_channel('unix:/nowhere');"
        "print(channel.unary_unary('/a/b').future(b'').exception().code())"
    )
    assert ran(code).split("\n") == ["False False", "StatusCode.UNAVAILABLE"]


def test_whoever_needs_openssl_afterwards_gets_it() -> None:
    code = "from nodelib.lean_grpc import import_grpc; import_grpc(); import ssl, urllib3; print(ssl.SSLContext)"
    assert ran(code) == "<class 'ssl.SSLContext'>"


def test_what_is_imported_already_is_left_alone() -> None:
    code = "import ssl as s, sys; from nodelib.lean_grpc import import_grpc as i; i(); print(sys.modules['ssl'] is s)"
    assert ran(code) == "True"
