"""The door to the Kubernetes API over TLS, as in a cluster."""

import shutil
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from nodelib.kube import UNREACHABLE, ApiAccess, ApiError, Kube
from tests.nodelib.samples import wait_until
from tests.nodelib.scripted_server import CHUNKED, answer, chunk, serving

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def certificate(folder: Path, name: str, alternative: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate that signs itself, for *alternative*, and a server's context with it."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}", "-days", "2"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    return certificate(tmp_path_factory.mktemp("tls"), "ours", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    return certificate(tmp_path_factory.mktemp("tls"), "other", "DNS:elsewhere")


def refusal(access: ApiAccess) -> ApiError:
    kube = Kube(access)
    try:
        with pytest.raises(ApiError) as caught:
            kube.get("/version")
    finally:
        kube.close()
    return caught.value


def test_a_server_with_the_clusters_certificate_is_talked_to(ours: tuple[Path, ssl.SSLContext]) -> None:
    with serving(answer(b"{}"), context=ours[1]) as server:
        kube = Kube(ApiAccess(server.url, ca_file=str(ours[0]), token="secret"))
        assert kube.get("/version") == {}
        kube.close()
    assert b"Authorization: Bearer secret" in server.requests[0]


def test_a_server_that_is_not_the_clusters_gets_no_token(
    ours: tuple[Path, ssl.SSLContext], other: tuple[Path, ssl.SSLContext]
) -> None:
    for context, ca_file in ((ours[1], other[0]), (other[1], other[0])):  # unknown issuer, another name
        with serving(answer(b"{}"), context=context) as server:
            error = refusal(ApiAccess(server.url, ca_file=str(ca_file), token="secret"))
        assert error.status == UNREACHABLE
        assert "certificate" in str(error)
        assert server.requests == []


def test_a_missing_certificate_file_is_one_sentence(tmp_path: Path) -> None:
    error = refusal(ApiAccess("https://127.0.0.1:1", ca_file=str(tmp_path / "ca.crt")))
    assert error.status == UNREACHABLE


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")  # which whoever asks for it may well be told
def test_verification_can_be_switched_off_as_a_kubeconfig_may_ask(other: tuple[Path, ssl.SSLContext]) -> None:
    with serving(answer(b"{}"), context=other[1]) as server:
        kube = Kube(ApiAccess(server.url, verify=False))
        assert kube.get("/version") == {}
        kube.close()


def test_a_blocked_watch_is_cut_from_another_thread(ours: tuple[Path, ssl.SSLContext]) -> None:
    seen: list[object] = []
    ended = threading.Event()
    with serving(CHUNKED + chunk(b'{"type": "ADDED"}\n'), hold=True, context=ours[1]) as server:
        kube = Kube(ApiAccess(server.url, ca_file=str(ours[0])))
        with kube.watch("/api/v1/nodes", {}, 60.0) as watch:

            def read() -> None:
                try:
                    seen.extend(watch)
                except ApiError as error:
                    seen.append(error.status)
                ended.set()

            reader = threading.Thread(target=read)
            reader.start()
            wait_until(lambda: seen)  # the next read waits for the server
            watch.cut()
            wait_until(ended.is_set)
            reader.join()
        kube.close()
    assert seen[0] == {"type": "ADDED"}
