"""Checks of what the DNS says about a domain and its server; none raises for what the DNS says, or does not say."""

from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_address

from gatepost.aio.resolve import Answer, Resolver
from gatepost.base.address import fold_domain
from gatepost.watch.finding import Finding, ok, problem, unknown, warning
from gatepost.watch.house import House
from gatepost.watch.records import hosts, mx, pointer, service_record

SILENT = "the DNS does not answer: look again later"


async def exchanges(resolver: Resolver, house: House, domain: str) -> AsyncIterator[Finding]:
    """Look where mail for the domain goes (RFC 5321 §5.1)."""
    answer = await resolver.mx(domain)
    if answer.temporary:
        yield unknown("mx", domain, SILENT)
        return
    lines = tuple(mx(house, domain))
    found = [fold_domain(each.host) for each in answer.records]
    if found == [""]:
        yield problem("mx", domain, "it says that it takes no mail at all (a null MX)", *lines)
    elif not found:
        yield problem("mx", domain, "nobody is named who takes its mail", *lines)
    elif house.hostname not in found:
        yield problem("mx", domain, f"its mail goes to {_words(found)}, not to {house.hostname}", *lines)
    else:
        yield _known_exchanges(house, domain, found)
    for host in found:
        if host and (await resolver.cname(host)).records:
            yield problem("mx", domain, f"{host} is an alias (CNAME), which an MX must not name (RFC 2181 §10.3)")
    missing = [record for record in lines[1:] if record.value.split()[1].rstrip(".") not in found]
    if missing and house.hostname in found:
        yield warning("mx", domain, "a backup MX that has joined is not named", *missing)


def _known_exchanges(house: House, domain: str, found: list[str]) -> Finding:
    others = [host for host in found if host not in (house.hostname, *house.backups)]
    if others:
        return warning("mx", domain, f"mail goes also to {_words(others)}, which this server does not know")
    return ok("mx", domain, f"mail goes to {_words(found)}")


async def addresses(resolver: Resolver, house: House) -> AsyncIterator[Finding]:
    """Look whether the server's name leads to its addresses."""
    name = house.hostname
    if "." not in name.strip("."):
        text = "the server's name is not a full one: set [server] hostname, such as mx.example.org"
        yield problem("address", name, text)
        return
    answer = await resolver.addresses(name)
    if answer.temporary:
        yield unknown("address", name, SILENT)
        return
    lines = {record.value: record for record in hosts(house)}
    if not answer:
        yield problem("address", name, "the server's name has no address", *lines.values())
        return
    missing = [record for ip, record in lines.items() if ip not in answer.records]
    strange = [ip for ip in answer.records if lines and ip not in lines]
    if strange:
        yield problem("address", name, f"{_words(strange)} is no address of this machine", *missing)
    elif missing:
        yield warning("address", name, f"{_words(r.value for r in missing)} is not named", *missing)
    else:
        yield ok("address", name, _words(answer.records))


async def pointers(resolver: Resolver, house: House, ips: Iterable[str]) -> AsyncIterator[Finding]:
    """Look whether each address has the server's name, as those who get mail from it do."""
    greeting = house.helo or house.hostname
    for ip in ips:
        answer = await resolver.ptr(ip)
        if answer.temporary:
            yield unknown("pointer", ip, SILENT)
            continue
        names = [fold_domain(name) for name in answer.records]
        if not names:
            yield problem("pointer", ip, "the address has no name: many refuse its mail", pointer(house, ip))
        elif greeting in names:
            yield ok("pointer", ip, greeting)
        elif await _leads_to(resolver, names[0], ip):
            text = f"its name is {names[0]}, but we greet as {greeting}: some take that for a sign of spam"
            yield warning("pointer", ip, text, pointer(house, ip))
        else:
            text = f"its name is {names[0]}, which does not lead back to it: many refuse its mail"
            yield problem("pointer", ip, text, pointer(house, ip))


async def services(resolver: Resolver, house: House, domain: str) -> AsyncIterator[Finding]:
    """Look whether phones find the server (RFC 6186)."""
    missing, wrong, silent = [], [], False
    for service in house.services:
        answer = await resolver.srv(f"{service.label}.{domain}")
        silent = silent or answer.temporary
        if answer.temporary:
            continue
        if not answer:
            missing.append(service_record(house, domain, service))
        elif not any(
            (fold_domain(each.target), each.port) == (house.hostname, service.port) for each in answer.records
        ):
            wrong.append(service_record(house, domain, service))
    if silent:
        yield unknown("services", domain, SILENT)
    if wrong:
        yield warning("services", domain, "mail programs are sent elsewhere", *wrong)
    if missing:
        yield warning("services", domain, "mail programs do not find the server by themselves (SRV)", *missing)
    if not (silent or wrong or missing) and house.services:
        yield ok("services", domain, "mail programs find the server by themselves")


async def _leads_to(resolver: Resolver, name: str, ip: str) -> bool:
    asked: Answer[str] = await (resolver.aaaa if ip_address(ip).version == 6 else resolver.a)(name)
    return ip in asked.records


def _words(texts: Iterable[str]) -> str:
    return ", ".join(texts)
