"""The DNS as the judge asks it, over the resolver: nothing found is empty, nobody knows is Trouble."""

from collections.abc import Sequence
from ipaddress import ip_address

from gatepost.aio.resolve import Answer, Resolver, Status, T
from gatepost.codec.spf import Ip
from gatepost.judge.spf import Trouble


class ResolvedNames:
    """Names for SPF and DKIM."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def txt(self, name: str) -> Sequence[bytes]:
        """Return TXT records with their strings joined."""
        return _known(await self._resolver.txt(name), name)

    async def hosts(self, name: str, version: int) -> Sequence[Ip]:
        """Return addresses of one family."""
        asked = self._resolver.a if version == 4 else self._resolver.aaaa
        return [ip_address(each) for each in _known(await asked(name), name)]

    async def exchanges(self, name: str) -> Sequence[str]:
        """Return MX hosts, the preferred first; the null MX is none."""
        return [each.host for each in _known(await self._resolver.mx(name), name) if each.host]

    async def exists(self, name: str) -> bool:
        """Tell whether a name, or one below it, exists at all (RFC 8020); Trouble where nobody knows."""
        answer = await self._resolver.a(name)
        _known(answer, name)
        return answer.status is not Status.NXDOMAIN

    async def pointers(self, ip: Ip) -> Sequence[str]:
        """Return the names that the address points to."""
        return _known(await self._resolver.ptr(str(ip)), str(ip))


def _known(answer: Answer[T], name: str) -> Sequence[T]:
    if answer.temporary:
        raise Trouble(f"the DNS does not answer for {name}")
    return answer.records
