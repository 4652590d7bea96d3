"""`gatepost gate kernel`: the gate's part in the kernel, seen, checked and taken away."""

import typer

from gatepost.aio.libnftables import Libnftables, NftablesError
from gatepost.aio.netlink import Netfilter, NetlinkError
from gatepost.cli.common import ConfigOption, JsonOption, configuration, fail, print_json, say
from gatepost.gate.kernel.rules import TABLE, remove, ruleset
from gatepost.process import kernel_policy

kernel = typer.Typer(help="The gate in the kernel: nftables.", no_args_is_help=True)


@kernel.command("show")
def kernel_show(as_json: JsonOption = False) -> None:
    """Print the rules that the kernel has, with how many packets each met. Root only."""
    try:
        with Netfilter() as packets:
            loaded = packets.table(TABLE) is not None
        # -t, terse: sets without their elements, which are the tables' anyway
        text = Libnftables().run(f"list table inet {TABLE}", terse=True) if loaded else ""
    except (NetlinkError, NftablesError) as wrong:
        fail(f"{wrong}. Only root can see the kernel's rules.")
    if as_json:
        print_json({"loaded": loaded, "ruleset": text})
    else:
        say(
            text.rstrip()
            if loaded
            else f"The kernel has no table inet {TABLE}: the gate in the workers decides alone."
        )
    if not loaded:
        raise typer.Exit(3)


@kernel.command("check")
def kernel_check(config: ConfigOption = None) -> None:
    """Print the ruleset that the configuration makes, and let nftables check it; nothing is loaded."""
    policy = kernel_policy(configuration(config))
    text = ruleset(policy.gate, policy.kernel, policy.ports)
    say(text.rstrip())
    try:
        Libnftables().run(text, dry=True)
    except NftablesError as wrong:
        if "Operation not permitted" not in str(wrong):
            fail(str(wrong))
        say("# not checked: nftables checks for root only")


@kernel.command("flush")
def kernel_flush() -> None:
    """Take the ruleset out of the kernel; a server that runs with it loads it again within a second. Root only."""
    try:
        Libnftables().run(remove())
    except NftablesError as wrong:
        fail(f"{wrong}. Only root can change the kernel's rules.")
    say(f"table inet {TABLE} is gone")
