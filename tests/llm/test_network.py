"""Company networks and careless servers: proxies, private certificates, redirects, and which key may go where."""

from __future__ import annotations

import datetime
import gzip
import http.server
import ipaddress
import ssl
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sifthinker import llm
from sifthinker.config import Api
from sifthinker.core.errors import UserError
from sifthinker.llm import keys, network
from tests import evil

ASKED = llm.Request([{"role": "user", "content": "a private question"}], 0.5, 99)
REMOTE = "http://models.example/v1"
QUICK = {"model": "m", "retries": 0, "timeout": 5.0, "api_key_env": ""}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def listening(status: int, headers: dict[str, str], raw: bytes) -> Iterator[tuple[str, list[str]]]:
    """A server that answers everything alike, CONNECT too; its address, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append(
                f"{self.command} {self.path} {self.headers.get('Proxy-Authorization')} {body.decode()}"
            )
            self.send_response(status)
            for name, value in {"content-length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET = do_CONNECT = answer

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def ask(folder: Path, url: str, **fields: object) -> llm.Reply | llm.Failure:
    api = Api.model_validate({**QUICK, "base_url": url, **fields})
    with llm.Client(api, folder / "calls.db") as client:
        return client.ask(ASKED)


def test_another_machine_is_reached_through_the_proxy_and_loopback_is_not(tmp_path, monkeypatch):
    with listening(200, {}, evil.chat("by the proxy")) as (proxy, asked):
        monkeypatch.setenv("http_proxy", proxy.replace("//", "//me:pw@"))
        assert ask(tmp_path, REMOTE).text == "by the proxy"
        assert asked[0].startswith("POST http://models.example/v1/chat/completions Basic ")
        with evil.serving(lambda *_: (200, {}, evil.chat("directly"))) as server:
            assert ask(tmp_path, server.url).text == "directly"
    assert len(asked) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_is_named_without_its_password(tmp_path, monkeypatch, scheme):
    monkeypatch.setenv(f"{scheme}_proxy", "http://me:pw@127.0.0.1:9")
    failure = ask(tmp_path, REMOTE.replace("http", scheme, 1))
    assert "cannot connect to the proxy http://127.0.0.1:9" in failure.detail
    assert "pw" not in failure.detail


@pytest.mark.parametrize(("scheme", "status"), [("http", 407), ("https", 407)])
def test_a_proxy_that_wants_a_password_stops_the_stage(tmp_path, monkeypatch, scheme, status):
    with listening(status, {}, b"<html>") as (proxy, asked):
        monkeypatch.setenv(f"{scheme}_proxy", proxy)
        with pytest.raises(llm.Unauthorized, match="asks for a user and a password"):
            ask(tmp_path, REMOTE.replace("http", scheme, 1), retries=3)
    assert len(asked) == 1


def test_what_a_proxy_says_is_told_apart_from_what_the_endpoint_says(tmp_path, monkeypatch):
    with listening(403, {}, b"<html>not in this company</html>") as (proxy, _):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("https_proxy", proxy)
        with pytest.raises(llm.Unauthorized, match=r"company.*through the proxy"):
            ask(tmp_path, REMOTE)
        refused = ask(tmp_path, REMOTE.replace("http", "https", 1))
    assert f"the proxy {proxy} refuses to connect to models.example:443: HTTP 403" in refused.detail


def test_nobody_waits_long_for_the_word_that_nothing_is_there(tmp_path, caplog):
    failure = ask(tmp_path, "http://127.0.0.1:9/v1", retries=1)
    assert "cannot connect to 127.0.0.1:9" in failure.detail
    first = caplog.records[0]
    assert first.levelname == "WARNING"
    assert (
        "cannot connect to 127.0.0.1:9: Connection refused: 1 waiting, next try in 1 s" in first.getMessage()
    )


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 by nobody that the system knows, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "company")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(secret + pem)
    return folder / "both.pem"


def test_a_companys_own_certificates_are_trusted_where_they_are_named(tmp_path, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    with evil.serving(lambda *_: (200, {}, evil.chat("inside")), context) as server:
        with pytest.raises(llm.Unauthorized, match=r"certificate is not trusted.*SSL_CERT_FILE"):
            ask(tmp_path, server.url, retries=3)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert ask(tmp_path, server.url).text == "inside"


def test_certificates_are_read_once_and_again_where_others_are_named(tmp_path, monkeypatch):
    from sifthinker.llm.connections import trusted

    certificate(tmp_path)
    usual = trusted()
    with monkeypatch.context() as environment:
        environment.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        companys = trusted()
    assert [found["subject"] for found in companys.get_ca_certs()] == [((("commonName", "company"),),)]
    assert trusted() is usual


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(tmp_path, status):
    with listening(200, {}, evil.chat("elsewhere")) as (other, asked):
        there = other.replace("127.0.0.1", "localhost")
        with (
            evil.serving(lambda *_: (status, {"location": f"{there}/v1/chat"}, b"")) as server,
            pytest.raises(llm.Unauthorized, match="redirects to http://localhost"),
        ):
            ask(tmp_path, server.url)
    assert asked == []


def test_a_redirect_on_the_same_host_keeps_the_question(tmp_path):
    def moved(number: int, _: bytes) -> evil.Answer:
        return (308, {"location": "/v1/chat/completions/"}, b"") if not number else (200, {}, evil.chat())

    with evil.serving(moved) as server:
        assert ask(tmp_path, server.url).text == "fine"
    assert server.asked[0] == server.asked[1]


@pytest.mark.parametrize(("status", "words"), [(308, "more than 3 redirects"), (302, "is not followed")])
def test_a_redirect_that_loses_the_question_or_never_ends_stops_the_stage(tmp_path, status, words):
    with (
        evil.serving(lambda *_: (status, {"location": "/v1/chat/completions"}, b"")) as server,
        pytest.raises(llm.Unauthorized, match=words),
    ):
        ask(tmp_path, server.url)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd", "deflate, gzip"])
def test_what_unpacks_without_limit_is_not_unpacked(tmp_path, encoding):
    bomb = gzip.compress(gzip.compress(bytes(2**24)))
    with evil.serving(lambda *_: (200, {"content-encoding": encoding}, bomb)) as server:
        assert "packed as" in ask(tmp_path, server.url).detail


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_an_answer_may_be_packed(tmp_path, encoding, pack):
    with evil.serving(lambda *_: (200, {"content-encoding": encoding}, pack(evil.chat("small")))) as server:
        assert ask(tmp_path, server.url).text == "small"


ARK = "https://ark.cn-beijing.volces.com/api/v3"


@pytest.mark.parametrize(
    ("own", "name", "host", "allowed"),
    [
        ("", "ARK_API_KEY", "ark.cn-beijing.volces.com", True),
        ("", "ARK_API_KEY", "evil.example", False),
        ("", "ARK_API_KEY", "volces.com.evil.example", False),
        ("", "OPENAI_API_KEY", "eu.api.openai.com", True),
        ("", "OPENAI_API_KEY", "127.0.0.1", True),  # a gateway of one's own
        ("", "AWS_SECRET_ACCESS_KEY", "127.0.0.1", False),
        ("", "AWS_SECRET_ACCESS_KEY", "api.openai.com", False),
        ("MY_KEY=llm.example", "MY_KEY", "llm.example", True),
        ("MY_KEY=llm.example", "MY_KEY", "127.0.0.1", True),
        ("MY_KEY=llm.example", "ARK_API_KEY", "ark.cn-beijing.volces.com", True),
        (" MY_KEY = *.example , OTHER=LLM.example", "MY_KEY", "a.b.example", True),
        ("MY_KEY=*.example", "MY_KEY", "example", False),
        ("MY_KEY=*.example,OTHER=llm.example", "OTHER", "llm.example", True),
        ("MY_KEY=*.example,OTHER=llm.example", "OTHER", "a.example", False),
    ],
)
def test_a_variable_goes_to_the_hosts_that_this_machine_allows(monkeypatch, own, name, host, allowed):
    monkeypatch.setenv("SIF_API_KEYS", own)
    assert keys.allowed(name, host) is allowed


@pytest.mark.parametrize(
    "own", ["MY_KEY", "MY_KEY=", "=host", "MY KEY=host", "MY_KEY=https://host/v1", "MY_KEY=host:80"]
)
def test_a_list_that_cannot_be_read_is_explained(monkeypatch, own):
    monkeypatch.setenv("SIF_API_KEYS", own)
    with pytest.raises(UserError, match=r"SIF_API_KEYS: .* is no pair"):
        keys.allowed("MY_KEY", "host")


def test_no_secret_of_the_machine_can_be_sent_to_a_host_of_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
    with evil.serving(lambda *_: (200, {}, evil.chat())) as server:
        with pytest.raises(UserError, match=r"SIF_API_KEYS=AWS_SECRET_ACCESS_KEY=127\.0\.0\.1") as refused:
            ask(tmp_path, server.url, api_key_env="AWS_SECRET_ACCESS_KEY")
        assert server.asked == []
    assert "topsecret" not in str(refused.value)
    assert keys.optional("AWS_SECRET_ACCESS_KEY", server.url) == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"sk-1"', "position 1 of 6 (quotation mark)"),
        ("sk\n1", "position 3 of 4 (U+000A)"),
        ("sk-1\u200b", "position 5 of 5 (zero width space)"),
        ("sk-ä", "latin small letter a with diaeresis"),
        ("Bearer sk", "position 7 of 9 (space)"),
    ],
)
def test_a_key_with_a_stray_character_is_named_by_its_variable_and_not_shown(monkeypatch, value, said):
    monkeypatch.setenv("ARK_API_KEY", value)
    with pytest.raises(UserError) as refused:
        keys.key(Api(model="m", api_key_env="ARK_API_KEY"), ARK)
    assert said.casefold() in str(refused.value).casefold()
    assert "ARK_API_KEY" in str(refused.value)
    assert value not in str(refused.value)


def test_white_space_around_a_key_is_no_part_of_it(monkeypatch):
    monkeypatch.setenv("ARK_API_KEY", " sk-1\n")
    assert keys.key(Api(model="m", api_key_env="ARK_API_KEY"), ARK) == "sk-1"
    assert keys.key(Api(model="m", api_key_env=""), ARK) == ""


def test_the_proxy_of_an_address_is_the_environments(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://me:p%40w@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert network.proxy("https://models.example/v1") == "http://proxy.example:3128"
    assert network.proxy("http://models.example/v1") == network.proxy("https://inside.example/v1") == ""
