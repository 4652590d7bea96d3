"""News of mailboxes for the sessions of one worker: one listener at the database, whatever their number."""

from collections.abc import Callable

from gatepost.db.unit import Database

Told = Callable[[], None]


class MailboxNews:
    """Tells whoever watches a mailbox that something happened in it. It listens only while somebody watches."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watchers: dict[int, list[Told]] = {}
        self._deaf: Callable[[], None] | None = None

    def watch(self, mailbox: int, told: Told) -> Callable[[], None]:
        """Call `told` on the loop after each commit that changed the mailbox; return the way to stop, for one call.

        It is called too when news may have been missed, for the writer of the database was away.
        """
        if self._deaf is None:
            self._deaf = self._database.listen("mailbox", self._heard)
        self._watchers.setdefault(mailbox, []).append(told)
        return lambda: self._leave(mailbox, told)

    def _leave(self, mailbox: int, told: Told) -> None:
        watchers = self._watchers[mailbox]
        watchers.remove(told)
        if not watchers:
            del self._watchers[mailbox]
        if not self._watchers and self._deaf is not None:
            self._deaf()
            self._deaf = None

    def _heard(self, mailbox: int) -> None:
        watched = (self._watchers.get(mailbox, ()),) if mailbox else tuple(self._watchers.values())
        for watchers in watched:
            for told in tuple(watchers):
                told()
