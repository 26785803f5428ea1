"""How an engine's process begins and ends: two scripts that run in its container, with its own python3."""

from __future__ import annotations

from llmops import names

# The first process of a container: it starts the engine and hands on the signal to stop. As the first process, vLLM
# would never hear SIGTERM while it imports, for the kernel gives that process no signal it has no handler for; and
# vLLM 0.32 loses one that comes between the start of its engine process and its first answer. A pod told to go then
# would load on and stay for its whole grace period. So an engine that does not listen yet, and which nobody can have
# asked anything, is killed; the kernel ends what it has started together with the first process.
_LAUNCH = """
import errno, os, signal, socket, sys
def stop(number, frame):
    with socket.socket() as link:
        link.settimeout(5)
        loads = link.connect_ex(("127.0.0.1", PORT)) == errno.ECONNREFUSED
    os.kill(engine, signal.SIGKILL if loads else number)
engine = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, setsigdef=[signal.SIGPIPE])
signal.signal(signal.SIGTERM, stop)
while True:
    ended, status = os.wait()
    if ended == engine:
        code = os.waitstatus_to_exitcode(status)
        sys.exit(code if code >= 0 else 128 - code)
"""

# A pod that is told to go still gets requests until every gateway has heard of it, and has some in flight: wait for
# the news to spread, then until the engine itself says that it is idle. One that refuses connections still loads; one
# that is silent is waited for as long as the liveness probe would. The kubelet bounds all of it by the grace period.
_DRAIN = """
import http.client, time
def busy():
    link = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
    link.request("GET", "/metrics")
    answer = link.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise OSError(answer.status)
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    return any(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0] in names)
told = heard = time.monotonic()
while time.monotonic() < heard + 60:
    try:
        if not busy() and time.monotonic() > told + 3:
            break
        heard = time.monotonic()
    except ConnectionRefusedError:
        break
    except (OSError, http.client.HTTPException):
        pass
    time.sleep(0.5)
"""


def launched(command: tuple[str, ...], port: int = names.ENGINE_PORT) -> list[str]:
    """The command of a container whose first process listens to SIGTERM from the beginning."""
    return ["python3", "-c", _LAUNCH.strip().replace("PORT", str(port)), *command]


def drain(port: int = names.ENGINE_PORT) -> list[str]:
    """The command that returns as soon as the engine on this port may be stopped."""
    return ["python3", "-c", _DRAIN.strip().replace("PORT", str(port))]
