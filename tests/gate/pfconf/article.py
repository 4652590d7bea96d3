"""The article's pf.conf, letter for letter, and what its readers were told to use."""

from pathlib import Path
from typing import Final

ARTICLE: Final = (Path(__file__).parent / "article.conf").read_text()

CAPPED: Final = (
    "pass in quick proto tcp from any to any \\ port smtp keep state"
    " \\ (max 100, max-src-conn 10, max-src-conn-rate 10/5)\n"
)
"""The reader's first variant as printed: its lines were joined, backslashes and all."""

CAPPED_LINES: Final = CAPPED.replace("\\ ", "\\\n    ")

BANNING: Final = """\
table <bruteforce> persist
block in quick log from <bruteforce>
pass in quick proto tcp from any to any \\
    port smtp keep state \\
    (max-src-conn 10, max-src-conn-rate 10/5, overload <bruteforce> flush global)
"""
"""The second, with the line ends and the table that its page lost."""

BANNING_PRINTED: Final = (
    "table <bruteforce> persist block in quick log from pass in quick proto tcp from any to any \\ port smtp keep"
    " state \\ (max-src-conn 10, max-src-conn-rate 10/5, overload <bruteforce> flush global)\n"
)
