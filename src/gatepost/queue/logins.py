"""The operator hears once of a password that a smart host refuses; its mail waits meanwhile."""

from gatepost.queue.letters import Letters

_TEXT = """\
The mail server {host} does not take the user and password that
this server has for it, the line "{label}" of relay.credentials. It said:

    {answer}

Mail that goes by this server waits, and is tried again until its lifetime ends
(gatepost queue list). Mend the line, then: gatepost reload

You are told again only if the login fails after it has worked in between.
"""


class LoginLetters:
    """Tells of logins that fail (relay.deliver.Logins)."""

    def __init__(self, letters: Letters) -> None:
        self._letters = letters
        self._good: set[str] = set()
        """What worked last in this process: to note it again would cost a write each time."""
        self._bad: set[str] = set()

    async def refused(self, label: str, host: str, answer: str) -> None:
        """Tell the postmaster, unless it was told."""
        if label in self._bad:
            return
        self._good.discard(label)
        self._bad.add(label)
        text = _TEXT.format(label=label, host=host, answer=answer)
        await self._letters.begin(f"login:{label}", f"{host} refuses the login {label!r}: mail waits", text)

    async def worked(self, label: str) -> None:
        """Note that it works, once in a process and after each failure."""
        if label in self._good:
            return
        self._bad.discard(label)
        self._good.add(label)
        await self._letters.end(f"login:{label}")
