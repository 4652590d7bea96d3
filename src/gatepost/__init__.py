"""gatepost: a whole mail server in one package. `ls` is the path of a message; see docs/path.md."""

from typing import Final

__version__: Final = "0.1.0"
