"""`gatepost sign-proxy`: an SMTP proxy that signs, in the place of dkimproxy.out."""

import asyncio
import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gatepost.base.settings import BadSetting
from gatepost.cli.common import CLOCK, fail, say
from gatepost.config import split_address
from gatepost.judge.proxyconf import BadProxyConf, ProxyConf, read_proxy_conf
from gatepost.relay.signproxy import LINE_MAX, ProxySigner, SignProxy

Where = Annotated[str, typer.Option(metavar="HOST:PORT", help="Instead of the file's.")]


def sign_proxy(
    conf: Annotated[Path, typer.Argument(help="A dkimproxy_out.conf.")],
    listen: Where = "",
    relay: Where = "",
    check: Annotated[bool, typer.Option("--check", help="Read the file and its keys, and end.")] = False,
) -> None:
    """Pass mail on to the next hop with signatures on it, as dkimproxy.out does with this file.

    The server itself signs without this; it is for mail that another program sends.
    """
    settings = _settings(conf, listen, relay)
    try:
        signer = ProxySigner(settings, CLOCK)
    except (OSError, ValueError) as wrong:
        fail(f"{conf}: {wrong}")
    if check:
        domains = ", ".join(settings.domains) or "their own domains"
        say(f"{conf}: {len(settings.signatures)} signatures for {domains}")
        return
    asyncio.run(_serve(settings, signer))


def _settings(conf: Path, listen: str, relay: str) -> ProxyConf:
    try:
        read = read_proxy_conf(conf.read_text(encoding="utf-8"))
        given = {name: _host_port(text, name) for name, text in (("listen", listen), ("relay", relay)) if text}
    except (OSError, UnicodeDecodeError, BadProxyConf, BadSetting) as wrong:
        fail(f"{conf}: {wrong}")
    settings = replace(read, **given)  # type: ignore[arg-type]
    for name, where in (("listen", settings.listen), ("relay", settings.relay)):
        if where is None:
            fail(f"{conf}: there is no {name}: write `{name} 127.0.0.1:10027`, or give --{name}")
    return settings


def _host_port(text: str, name: str) -> tuple[str, int]:
    host, port = split_address(text, 25, (name,))
    return host, port


async def _serve(settings: ProxyConf, signer: ProxySigner) -> None:
    assert settings.listen is not None
    proxy = SignProxy(settings, signer, say)
    try:
        server = await asyncio.start_server(proxy.serve, *settings.listen, limit=LINE_MAX)
    except OSError as problem:
        fail(f"listen {settings.listen[0]}:{settings.listen[1]}: {problem.strerror}")
    host, port = server.sockets[0].getsockname()[:2]
    say(f"listening on {host}:{port}")
    ended = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, ended.set)
    async with server:
        await ended.wait()
