"""How long the commands take to say what they are: help, version, completion by Tab, and to refuse a wrong setting.

Each is a process of its own, as from a shell, one after the other; the first of each is left out, since it may have to compile.
`cpu` is user and system time, which other work on the machine does not change much. Prints a table and a JSON line.

    python benchmarks/command_start.py [--turns 5] [--commands train,predict] [--source src]

With `--source` of another checkout it measures that one: entry points are looked for in both places that they have had.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = ("train", "evaluate", "score", "tasks", "compare", "page", "export", "predict", "prepare", "mine")
START = """
import importlib.util, sys
name = sys.argv[0].removeprefix("hardneg-")
if importlib.util.find_spec("hardneg_plugin.apps") and importlib.util.find_spec("hardneg_plugin.apps.commands"):
    from hardneg_plugin.apps import commands
    getattr(commands, name)()
else:
    __import__(f"hardneg_plugin.apps.{name}", fromlist=["main"]).main()
"""


def main() -> None:
    options = read_arguments()
    timed = {}
    for command in options.commands.split(","):
        asked = {"--help": ["--help"], "--version": ["--version"], "Tab": ["-sc", "query=bash"]}
        if command == "train":
            asked["wrong type"] = ["trainer.max_epochs=three"]
            asked["wrong monitor"] = ["monitor=val/BLEU4"]
        for name, arguments in asked.items():
            timed[f"hardneg-{command} {name}"] = time_process(command, arguments, options)
    print(f"{'':34}{'seconds':>9}{'cpu':>7}")
    for name, (seconds, cpu) in timed.items():
        print(f"{name:34}{seconds:9.2f}{cpu:7.2f}")
    print(json.dumps({name: {"seconds": seconds, "cpu": cpu} for name, (seconds, cpu) in timed.items()}))


def time_process(command: str, arguments: list[str], options: argparse.Namespace) -> tuple[float, float]:
    """The medians of wall-clock and CPU seconds."""
    walls, cpus = [], []
    environment = {**os.environ, "COMP_LINE": f"hardneg-{command} ", "PYTHONPATH": str(Path(options.source).resolve())}
    # as the script of an installed command: its name is what Hydra and errors call it
    code = f"import sys; sys.argv[0] = 'hardneg-{command}'\n{START}"
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.turns + 1):
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, check=False
            )
            walls.append(time.perf_counter() - started)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(walls[1:]), statistics.median(cpus[1:])


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--source", default=str(Path(__file__).resolve().parents[1] / "src"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
