"""One process of the fleet on a laptop: `python -m tests.flood.worker STORE WORKERS LOG`. It works until it is killed
or its standard input ends. `LOG`: a file to which the engine's warnings are appended."""

import json
import os
import sys

from onward.entry.local import Local

from .app import app


def main(store: str, workers: str, log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(level: str, message: str, **fields: object) -> None:
        if level != "INFO":
            os.write(file, (json.dumps({"message": message, **fields}, default=str) + "\n").encode())

    local = Local(app, store, note=note)
    with local.workers(int(workers)) as wait:
        os.set_blocking(0, False)
        while sys.stdin.buffer.raw.read(1) is None:  # type: ignore[attr-defined]
            wait(0.2)
    local.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
