"""The command line: skins on the stages' verbs."""

import sys

import typer

from gatepost.cli import (
    bgp,
    care,
    gate,
    join,
    kernel,
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
    spamdb,
    story,
    sync,
    tables,
    tls,
)
from gatepost.cli.common import guarded
from gatepost.cli.imports import imports

app = typer.Typer(
    name="gatepost",
    help="A whole mail server. Begin with: gatepost try",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(people.users, name="user")
app.add_typer(people.domains, name="domain")
app.add_typer(people.aliases, name="alias")
app.add_typer(people.dkim, name="dkim")
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
app.add_typer(tls.tls, name="tls")
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


def run() -> int:
    """Run the command that sys.argv names."""

    def command() -> int:
        if spamdb.called():
            return spamdb.run(sys.argv[1:])
        if pfctl.called():
            return pfctl.run(sys.argv[1:])
        if sendmail.called():
            return sendmail.run(sys.argv[1:])
        if mailq.called() == mailq.MAILQ:
            return mailq.run(sys.argv[1:])
        if mailq.called() == mailq.NEWALIASES:
            return mailq.run_newaliases(sys.argv[1:])
        left = app(standalone_mode=False)  # an Exit comes back as its status
        return left if isinstance(left, int) else 0

    try:
        return guarded(command)
    except typer.Abort:
        sys.stderr.write("Nothing was done.\n")
        return 1
    except Exception as error:
        shown = getattr(error, "show", None)
        if shown is None:
            raise
        shown()
        return int(getattr(error, "exit_code", 2))
