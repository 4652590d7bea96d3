"""A toy server under the real supervisor: `python -m tests.aio.toy serve|plan|generation FOLDER`.

FOLDER/plan.json is its configuration. Who connects is told `generation worker pid version`, then echoed by lines.
"""

import json
import sys
from pathlib import Path

from gatepost.aio.generation import run_generation
from gatepost.aio.process import EventLines
from gatepost.aio.supervise import Commands, Supervisor


def argv(word: str, folder: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.aio.toy", word, folder)


def main(word: str, folder: str) -> int:
    here = Path(folder)
    match word:
        case "plan":
            print(json.dumps(json.loads((here / "plan.json").read_text())))
            return 0
        case "generation":
            if (here / "unwell").exists():
                return 3
            from tests.aio.toy_server import program  # as a real program does: the parents load nothing of it

            return run_generation(program(here), EventLines())
        case _:
            commands = Commands(argv("plan", folder), argv("generation", folder), argv("serve", folder))
            return Supervisor(commands).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
