"""`python -m llmops_serving.jobs.finetune --spec JSON --job DIR --model DIR`: heeds SIGTERM, then imports the job."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from llmops_serving.jobs.finetune.launch import left
from llmops_serving.jobs.outcome import EXIT_INTERRUPTED


def main() -> NoReturn:
    # A container's first process gets no signal that it has no handler for: told to go, it would train until killed.
    signal.signal(signal.SIGTERM, _leave)
    from llmops_serving.jobs.finetune.job import run  # noqa: PLC0415

    run(sys.argv[1:], dict(os.environ))


def _leave(*_: object) -> NoReturn:
    os._exit(left(EXIT_INTERRUPTED))


if __name__ == "__main__":
    main()
