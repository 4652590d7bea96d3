"""All commands of `gatepost`, put together."""

from typing import Annotated

import typer

from gatepost import __version__
from gatepost.cli import (
    bgp,
    care,
    dkim,
    dmarcreports,
    doctor,
    gate,
    genuine,
    join,
    kernel,
    limits,
    lists,
    mailq,
    people,
    pf,
    pfctl,
    queue,
    recipients,
    rules,
    sendmail,
    server,
    signproxy,
    spamdb,
    srs,
    story,
    sync,
    tables,
    tls,
    tlsreports,
)
from gatepost.cli.common import say
from gatepost.cli.imports import imports

app = typer.Typer(
    name="gatepost",
    help="A whole mail server. Begin with: gatepost try",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
limits.register(people.users)
app.add_typer(people.users, name="user")
app.add_typer(people.domains, name="domain")
app.add_typer(people.aliases, name="alias")
app.add_typer(dkim.dkim, name="dkim")
app.add_typer(dmarcreports.dmarc, name="dmarc")
app.add_typer(queue.queue, name="queue")
app.add_typer(gate.tables, name="tables")
app.add_typer(gate.grey, name="grey")
gate.gate.add_typer(kernel.kernel, name="kernel")
gate.gate.command("explain")(pf.gate_explain)
app.add_typer(gate.gate, name="gate")
app.add_typer(pf.pf, name="pf")
app.add_typer(bgp.bgp, name="bgp")
app.add_typer(lists.lists, name="lists")
app.add_typer(sync.sync, name="sync")
tlsreports.register(tls.tls)
app.add_typer(tls.tls, name="tls")
app.command("sign-proxy")(signproxy.sign_proxy)
app.add_typer(srs.srs, name="srs")
app.add_typer(recipients.recipients, name="recipients")
rules.rules.add_typer(tables.tables, name="tables")
app.add_typer(rules.rules, name="rules")
app.add_typer(imports, name="import")
server.register(app)
story.register(app)
care.register(app)
spamdb.register(app)
pfctl.register(app)
sendmail.register(app)
mailq.register(app)
join.register(app)
genuine.register(app)
doctor.register(app)


def _version(asked: bool) -> None:
    if asked:
        say(f"gatepost {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """A whole mail server. Begin with: gatepost try"""
