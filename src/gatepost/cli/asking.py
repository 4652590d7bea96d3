"""What commands that ask the DNS share: `--dns`, and the resolver of the configuration, if there is one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from gatepost.aio.resolve import Resolver, Server, system_servers
from gatepost.base.settings import BadSetting
from gatepost.cli.common import CLOCK, CONFIG_FILES, Failed, configuration
from gatepost.config import Config, split_address

DNS_PORT: Final = 53

DnsOption = Annotated[str, typer.Option("--dns", metavar="HOST:PORT", help="Ask this resolver instead.")]


def configuration_if_any(path: Path | None) -> Config:
    """Return the configuration in force; the defaults where there is none."""
    if path is None and not any(Path(name).exists() for name in CONFIG_FILES):
        return Config()
    return configuration(path)


def servers(dns: str, config: Config) -> tuple[Server, ...]:
    """Return the resolvers to ask: `dns`, else the configured ones, else the machine's."""
    texts = (dns,) if dns else config.resolver.servers
    try:
        return tuple(split_address(text, DNS_PORT, ("dns",)) for text in texts) or system_servers()
    except BadSetting as wrong:
        raise Failed(f"{dns!r} is no resolver: write 127.0.0.1:53") from wrong


class _Silent:
    """A log that is not wanted: what is printed says the same."""

    def _nothing(self, event: str, **fields: object) -> None:
        """Do nothing."""

    debug = info = warning = error = exception = _nothing


SILENT: Final = _Silent()


@asynccontextmanager
async def resolver(dns: str, config: Config) -> AsyncIterator[Resolver]:
    """Ask for as long as the context lasts."""
    asked = Resolver(servers(dns, config), clock=CLOCK, trusted=config.resolver.trusted)
    try:
        yield asked
    finally:
        await asked.close()
