"""Addresses that must not be reached, as a user would write them in a URL: the whole job, none of them connected to."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from llmops_serving.jobs.egress import Egress
from llmops_serving.jobs.outcome import Failure, Reason
from llmops_serving.jobs.weights.sources.guarded import Guarded
from llmops_serving.jobs.weights.sources.web import WebSource
from tests.integration.weights.job import Job

HOSTS = [
    "127.0.0.1", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "017700000001",
    "0177.0.0.1", "0177.1", "127.0.0.1.", "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "127.127.127.127",
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "169.16689662",
    "0251.254.169.254", "169.254.43518", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[::169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]", "[fe80::1]", "169.254.170.2", "100.100.100.200", "168.63.129.16",
    "192.0.0.192", "10.0.0.1", "10.1", "167772161", "10.96.0.1", "012.0.0.1", "0xa.0.0.1", "172.16.0.1", "192.168.0.1",
    "3232235521", "192.168.1", "[fc00::1]", "[fd00::1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::]", "100.64.0.1",
    "user@127.0.0.1", "public.example@169.254.169.254", "%31%32%37.0.0.1", "①②⑦.0.0.1", "127。0。0。1", "224.0.0.1",
    "127.0.0.1%23@169.254.169.254", "[fe80::1%25lo]", "ⓛocalhost", "198.18.0.1", "255.255.255.255",
]  # fmt: skip


class Watched(Egress):
    """Writes down what it would connect to."""

    def __init__(self) -> None:
        super().__init__(allow_private=False)
        self.connected: list[str] = []

    def connect(self, host: str, port: int) -> socket.socket:
        connection = super().connect(host, port)
        self.connected.append(host)
        return connection


@pytest.fixture(scope="module")
def egress() -> Iterator[Watched]:
    with Watched() as proxy:
        yield proxy


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_spelling_of_a_forbidden_address_is_reached(egress: Watched, host: str, scheme: str) -> None:
    egress.refused.clear()
    url = f"{scheme}://{host}/latest/meta-data/model.safetensors"
    with pytest.raises(Failure) as failure:
        Guarded(WebSource(url, token=None, proxy=egress.url), egress).listing(None)
    # A spelling that no resolver reads is an outage or a bad address; one that is read is forbidden.
    assert failure.value.reason in (Reason.SOURCE_FORBIDDEN, Reason.SOURCE_INVALID, Reason.SOURCE_UNAVAILABLE)
    assert egress.connected == []


def test_a_name_is_asked_for_once_so_that_it_cannot_change_between_check_and_use() -> None:
    """DNS rebinding: the second answer would be another address. There is no second question."""
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Egress(allow_private=True, resolve=resolve)
        with proxy.connect("rebind.example", listener.getsockname()[1]) as connection:
            assert connection.getpeername() == listener.getsockname()
    assert asked == ["rebind.example"]


@pytest.mark.parametrize(
    "source", ["http://127.0.0.1:1/model.safetensors", "https://localhost/m", "http://169.254.169.254/latest/meta-data"]
)
def test_the_job_says_that_it_is_forbidden(job: Job, source: str) -> None:
    ended = job.run("--source", source, private=False)
    assert (ended.reason, ended.code) == ("SourceForbidden", 40), ended.output
