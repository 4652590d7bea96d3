"""The name of a client: a PTR record that points back to its address (forward-confirmed reverse DNS)."""

import asyncio
from ipaddress import ip_address
from typing import Final

from gatepost.base.address import fold_domain
from gatepost.intake.auth import exempt
from gatepost.intake.ports import Names

NAMES_MAX: Final = 3  # PTR names that are looked up; RFC 7208 §4.6.4 has ten, for another purpose
NAMING_TIME: Final = 5.0  # s


async def confirmed_name(names: Names, ip: str) -> str:
    """Return the confirmed name of `ip`, lower-case A-labels; empty when it has none or the DNS is too slow."""
    if exempt(ip):
        return "localhost"
    try:
        async with asyncio.timeout(NAMING_TIME):
            pointed = await names.ptr(ip)
            for name in pointed.records[:NAMES_MAX]:
                found = await names.addresses(name)
                if any(ip_address(each) == ip_address(ip) for each in found.records):
                    return fold_domain(name)
    except (TimeoutError, ValueError):
        pass
    return ""
