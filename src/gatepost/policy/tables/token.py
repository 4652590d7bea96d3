"""Where a query takes a value: `:key`, `:local`, `:domain`, outside of quotes."""

import re
from typing import Final

TOKEN: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(?<![:\w]):(key|local|domain)\b")
