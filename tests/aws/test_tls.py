"""Only a server that proves its name to the chosen roots is spoken to."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onward.aws import connection
from onward.aws.wire import Wire
from onward.core.errors import Unavailable
from tests.aws.scripted import reply

x509 = pytest.importorskip("cryptography.x509", reason="cryptography makes the certificates of this test")


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that vouches for itself, for `name` and 127.0.0.1 where the name is localhost."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[object] = [x509.DNSName(name)]
    if name == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / f"{name}.pem", folder / f"{name}.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


@pytest.fixture
def serve_tls(tmp_path: Path) -> Iterator[Callable[[str], tuple[str, Path]]]:
    """Starts a server whose certificate has the given name; its URL and the certificate."""
    listening: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(name: str) -> tuple[str, Path]:
        public, private = certificate(tmp_path, name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(public, private)
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def attend() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(client, server_side=True) as secured:
                        while secured.recv(65_536):
                            secured.sendall(reply(200, {"secured": True}))
                except OSError:
                    client.close()

        threads.append(threading.Thread(target=attend))
        threads[-1].start()
        return f"https://127.0.0.1:{server.getsockname()[1]}", public

    yield start
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    for thread in threads:
        thread.join(5)


def ask(wire: Wire) -> dict[str, object]:
    return wire.json("dynamodb", "GetItem", {}, "runs")


def test_a_chosen_bundle_of_roots_is_the_one_that_counts(
    serve_tls: Callable[[str], tuple[str, Path]], wire_to: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, roots = serve_tls("localhost")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(roots))
    wire = wire_to(url)
    wire.connect()
    assert ask(wire) == ask(wire) == {"secured": True}
    assert wire.pool.opened == 1
    wire.close()


def test_a_server_that_nobody_vouches_for_is_not_spoken_to(
    serve_tls: Callable[[str], tuple[str, Path]], wire_to: Callable[..., Wire]
) -> None:
    url, _ = serve_tls("localhost")
    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        ask(wire_to(url, attempts=1))


def test_a_server_with_another_name_is_not_spoken_to(
    serve_tls: Callable[[str], tuple[str, Path]], wire_to: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, roots = serve_tls("elsewhere.example")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(roots))
    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        ask(wire_to(url, attempts=1))


def test_a_missing_bundle_is_told(wire_to: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "no/such/file.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(Unavailable, match="No such file"):
            ask(wire_to(url, attempts=1))


def test_amazons_roots_are_five_and_last_for_years() -> None:
    roots = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    roots.load_verify_locations(connection._AMAZON_ROOTS)
    certificates = roots.get_ca_certs()
    assert len(certificates) == 5
    for one in certificates:
        told = str(one["subject"])
        assert "Amazon Root CA" in told or "Starfield Services Root" in told
        assert ssl.cert_time_to_seconds(str(one["notAfter"])) > ssl.cert_time_to_seconds("Jan  1 00:00:00 2035 GMT")


def test_amazons_roots_are_for_amazons_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection._roots_for("dynamodb.eu-central-1.amazonaws.com") == connection._AMAZON_ROOTS
    assert connection._roots_for("dynamodb.cn-north-1.amazonaws.com.cn") is None
    assert connection._roots_for("amazonaws.com.example") is None
    monkeypatch.setenv("SSL_CERT_FILE", "own.pem")
    assert connection._roots_for("dynamodb.eu-central-1.amazonaws.com") is None


def test_a_host_that_amazons_roots_do_not_vouch_for_is_judged_by_the_systems_store(
    serve_tls: Callable[[str], tuple[str, Path]], wire_to: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a company's proxy, whose root the system trusts."""
    url, roots = serve_tls("localhost")
    monkeypatch.setattr(connection, "_roots_for", lambda host: connection._AMAZON_ROOTS)
    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        ask(wire_to(url, attempts=1))
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    assert ask(wire_to(url, attempts=1)) == {"secured": True}
