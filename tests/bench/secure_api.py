"""The simulated API server behind TLS, as a pod meets the real one: TLS is a part of an agent's size."""

import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.kube.api import KubeApi


@contextlib.contextmanager
def secured(api: KubeApi, folder: Path) -> Iterator[list[str]]:
    """Its address, the file of its CA and the file with a token, while it is reached so."""
    certificate, key, token = folder / "ca.crt", folder / "key.pem", folder / "token"
    token.write_text(api.token or "")
    names = ("-subj", "/CN=simulated", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(key), "-out", str(certificate))
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files)
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = api._server
    assert server is not None, "the API server is not started"
    server.socket = context.wrap_socket(server.socket, server_side=True)
    yield [api.url.replace("http:", "https:"), str(certificate), str(token)]
