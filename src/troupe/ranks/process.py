"""The process of a rank that rank 0 has started: `python -m troupe.ranks.process`."""

import json
import os
import sys
import threading


def main() -> None:
    sys.path[:], call = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    import cloudpickle

    from troupe import trainer
    from troupe.config import TroupeError, one_line

    function, arguments = cloudpickle.loads(bytes.fromhex(call))
    status = 0
    try:
        getattr(trainer, function)(**arguments)
    except TroupeError as error:
        print(f"troupe: rank {os.environ['RANK']}: {one_line(error)}", file=sys.stderr)
        status = 1
    except SystemExit as done:
        status = done.code if isinstance(done.code, int) else 1
    sys.stderr.flush()
    os._exit(status)  # or a thread of an environment would keep the process alive


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
