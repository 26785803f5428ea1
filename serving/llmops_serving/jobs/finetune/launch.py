"""Starts the processes of one training run: torchrun, with two differences.

`python -m llmops_serving.jobs.finetune.launch [torchrun's options] -m llmops_serving.jobs.finetune ...` passes SIGTERM
on and waits, because a checkpoint may take longer than torchrun's 30 s; and it ends with the exit code that its
processes agreed on, because the Job's rules are about those codes. A process that is lost ends the others, and all
begin anew from the last checkpoint, as often as `--max-restarts` says.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from llmops_serving.jobs.outcome import EXIT_BUG, EXIT_INTERRUPTED, EXIT_TIME_MAY_HEAL, EXIT_USER_MUST_ACT

VERDICTS = "LLMOPS_GANG_VERDICTS"  # where a process that has come to an end says so; it then exits with 0


def left(code: int) -> int:
    """The exit code for this process: under the launcher, an end that is no accident is told apart from one."""
    folder = os.environ.get(VERDICTS)
    if folder is None or code in {EXIT_BUG, EXIT_TIME_MAY_HEAL}:
        return code
    (Path(folder) / os.environ.get("RANK", "0")).write_text(str(code), encoding="ascii")
    return 0


def verdict(codes: set[int]) -> int:
    """One exit code out of those of all processes: whoever must act comes first."""
    for code in (EXIT_USER_MUST_ACT, *sorted(codes, reverse=True)):
        if code in codes:
            return code
    return EXIT_BUG


def main(argv: list[str]) -> NoReturn:
    signal.signal(signal.SIGTERM, _pass_on)  # before the imports, which take seconds
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.launcher.api import elastic_launch  # noqa: PLC0415
    from torch.distributed.run import config_from_args, parse_args  # noqa: PLC0415

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own choice, without its warning
    # Otherwise processes that begin anew would find the addresses of those that were lost.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    options = parse_args(argv)
    options.signals_to_handle = "SIGINT"
    if options.standalone:  # as torchrun does it: a port that is free, and a name nobody else has
        options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = "c10d", "localhost:0", uuid.uuid4().hex
    config, command, arguments = config_from_args(options)
    with tempfile.TemporaryDirectory(prefix="gang-") as folder:
        os.environ[VERDICTS] = folder
        with suppress(ChildFailedError):  # the processes have logged why
            elastic_launch(config=config, entrypoint=command)(*arguments)
        codes = {int(path.read_text(encoding="ascii")) for path in Path(folder).iterdir()}
    sys.exit(verdict(codes))


def _pass_on(number: int, _: object) -> None:
    tasks = Path("/proc/self/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]
    if not children:  # the processes still wait for those of other pods: nothing was learned
        os._exit(EXIT_INTERRUPTED)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, number)


if __name__ == "__main__":
    main(sys.argv[1:])
