"""The article's smtpd.conf, letter for letter, its twin in the later grammar, and both as policies."""

import re
from pathlib import Path
from typing import Final

from gatepost.config import Config, parse
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.smtpdconf.read import read
from gatepost.policy.smtpdconf.toml import as_toml, remark_text, report
from gatepost.policy.smtpdconf.words import Found

HERE: Final = Path(__file__).parent
ARTICLE: Final = (HERE / "article.conf").read_text()
TWIN: Final = (HERE / "twin.conf").read_text()
TABLES: Final = {
    "aliases": "root: joe\n",
    "domains": "here.example\n",
    "users": "joe.bloggs@here.example joe\n",
    "blacklist-recipients": "blocked@here.example\n",
    "other-relays": "",
    "secrets": "isp user:word\n",
}


def found_in(text: str, folder: Path) -> Found:
    """Read a smtpd.conf whose tables lie in a folder."""
    for name, content in TABLES.items():
        (folder / name).write_text(content)
    file = folder / "smtpd.conf"
    file.write_text(re.sub(r"(file:|db:)/etc/mail/", rf"\1{folder}/", text))
    return read(file)


def told(found: Found) -> str:
    """Return the report as it is printed, without the file's name."""
    return "\n".join(remark_text(each).removeprefix(f"{found.file}:") for each in report(found)) + "\n"


def config_of(found: Found) -> Config:
    """Load the settings as the server does."""
    return parse(as_toml(found), Path("gatepost.toml"))


def policy_of(found: Found) -> Policy:
    """Load the settings and compile their rules as the server does."""
    settings = config_of(found).policy
    return Policy(settings, load(settings), own_names=["mx.here.example"])
