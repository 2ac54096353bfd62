import os

import httpx
import pytest

from fedser.common.environment import proxy_hint, spare_loopback

PROXY = "http://me:secret@proxy.example:3128"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for spelt in (name, name.upper()):
            monkeypatch.setenv(spelt, "")  # so that it is put back whatever sets it
            monkeypatch.delenv(spelt)


def through_proxy(address):
    client = httpx.Client()
    return client._transport_for_url(httpx.URL(f"http://{address}")) is not client._transport


@pytest.mark.parametrize("spared", ["", "intern.example,.lan", "*"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_loopback_is_never_sent_through_a_proxy(host, spared, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", spared)
    spare_loopback()
    assert not through_proxy(f"{host}:8443")
    assert through_proxy("server.example:8443") == (spared != "*")
    assert through_proxy("intern.example:8443") == (spared == "")


def test_without_a_proxy_the_environment_stays(monkeypatch):
    before = dict(os.environ)
    spare_loopback()
    assert dict(os.environ) == before


def test_a_proxy_is_named_but_not_its_password(monkeypatch):
    assert proxy_hint("server.example:8443") == ""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    hint = proxy_hint("server.example:8443")
    assert "HTTPS_PROXY sends this through a proxy" in hint and "server.example" in hint
    assert "add server.example to NO_PROXY" in hint and "secret" not in hint
    spare_loopback()
    assert proxy_hint("127.0.0.1:8443") == proxy_hint("[::1]:8443") == ""
