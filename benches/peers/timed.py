#!/usr/bin/env python3
"""Runs a command and prints what it took, as JSON.

    python3 benches/peers/timed.py [--skip BYTES] [--limit SECONDS] [--probe PROGRAM --threads N] -- COMMAND…

`first_output_s` is the time from process start until the command has written more than BYTES bytes to stdout, or to its
end if it never does; `peak_memory_bytes` is the largest resident set, mapped files included. `roofs` is what PROGRAM N
said just before. run.py puts this program between itself and every command, so that nothing that waits is counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--probe", help="the compiled roofs.c")
    parser.add_argument("--threads", default="1", help="threads of the probe")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()

    roofs = json.loads(subprocess.check_output([args.probe, args.threads])) if args.probe else None
    output, first = b"", None
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(args.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        except OSError as error:
            sys.exit(f"error: cannot start `{args.command[0]}`: {error.strerror}")
        alarm = threading.Timer(args.limit, process.kill)
        alarm.start()
        while piece := os.read(process.stdout.fileno(), 1 << 16):
            output += piece
            if first is None and len(output) > args.skip:
                first = time.perf_counter() - start
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        alarm.cancel()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    report = {
        "exit": process.returncode,
        "seconds": seconds,
        "first_output_s": seconds if first is None else first,
        "peak_memory_bytes": usage.ru_maxrss * unit,
        "roofs": roofs,
        "stdout": output.decode(errors="replace"),
        "stderr": said[-2000:],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
