"""How an engine's process begins and ends: the first process of its container, and the hook before its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmops.desired import lifetime

pytestmark = pytest.mark.timeout(120)
NEWS_SECONDS = 3  # until every gateway has heard that the pod goes


@contextmanager
def listening(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[int]:
    """The port of a server that answers like this."""
    handler = type("Handler", (BaseHTTPRequestHandler,), {"do_GET": answer, "log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def told(handler: BaseHTTPRequestHandler, running: int, waiting: int = 0) -> None:
    labels = '{engine="0",model_name="support"}'
    text = f"vllm:num_requests_running{labels} {running}.0\nvllm:num_requests_waiting{labels} {waiting}.0\n"
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(text.encode())


def test_an_engine_that_loads_is_not_waited_for() -> None:
    """It has its port and does not listen yet, as vLLM while it loads: nobody can have asked it anything."""
    with listening(lambda handler: told(handler, 0)) as port:
        pass
    ended = subprocess.run(lifetime.drain(port), capture_output=True, text=True, check=True)
    assert not ended.stderr


def test_an_idle_engine_is_waited_for_until_every_gateway_knows() -> None:
    with listening(lambda handler: told(handler, 0)) as port:
        begun = time.monotonic()
        subprocess.run(lifetime.drain(port), check=True)
        assert time.monotonic() - begun >= NEWS_SECONDS


@pytest.mark.parametrize("trouble", ["none", "waiting", "500", "cut"])
def test_an_engine_that_answers_somebody_is_waited_for_through_every_trouble(trouble: str) -> None:
    """A look that fails says nothing about requests in flight."""
    looks: list[float] = []
    idle = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        looks.append(time.monotonic())
        if idle.is_set() or trouble == "none":
            told(handler, 0 if idle.is_set() else 3)
        elif trouble == "waiting":
            told(handler, 0, 2)
        elif trouble == "500":
            handler.send_error(500)
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nvll")

    with listening(answer) as port, subprocess.Popen(lifetime.drain(port)) as hook:
        deadline = time.monotonic() + 60
        while not looks or looks[-1] < looks[0] + NEWS_SECONDS + 1:
            assert hook.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        idle.set()
        assert hook.wait(60) == 0


DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); signal.pause()"
UNHANDLED = "import time; print('begun', flush=True); time.sleep(600)"
SERVING = """
import http.server, signal, sys
server = http.server.HTTPServer(("127.0.0.1", PORT), http.server.BaseHTTPRequestHandler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("begun", flush=True)
server.serve_forever()
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a process namespace of its own")
@pytest.mark.parametrize(
    ("engine", "code"),
    [
        pytest.param(UNHANDLED, 137, id="one that imports still"),
        pytest.param(DEAF, 137, id="one that loads and loses signals"),
        pytest.param(SERVING, 7, id="one that serves ends as it likes"),
    ],
)
def test_an_engine_that_is_told_to_stop_stops(engine: str, code: int) -> None:
    """As in a container, what is started is the first process of its namespace."""
    with listening(lambda handler: told(handler, 0)) as port:
        pass
    launched = lifetime.launched(("python3", "-c", engine.replace("PORT", str(port))), port)
    container = ["unshare", "--pid", "--fork", "--kill-child", *launched]
    with subprocess.Popen(container, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as outside:
        try:
            assert outside.stdout
            assert outside.stdout.readline() == b"begun\n"
            first = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()[0]
            os.kill(int(first), signal.SIGTERM)
            assert outside.wait(60) == code
        finally:
            outside.kill()


def test_an_engine_that_fails_says_so_with_its_own_code() -> None:
    ended = subprocess.run(lifetime.launched(("python3", "-c", "raise SystemExit(2)")), check=False)
    assert ended.returncode == 2
