"""Who may write from which address: users from theirs, and who is asked about it.

    envelope    MAIL FROM
    both        also From and Sender in the header: what the recipient is shown

An address is a user's own when mail to it reaches the user, by aliases too, or when the table `policy.senders` says
so. Programs of this machine and strangers are not asked: the rules decide about those.
"""

from gatepost.accounts.model import AccountId
from gatepost.base.address import Address
from gatepost.base.reply import Code, Refusal, Reply
from gatepost.codec.mail.build import printable
from gatepost.codec.mail.header import HeaderBlock
from gatepost.intake import content
from gatepost.intake.ports import Services
from gatepost.intake.settings import SenderCheck


async def check_envelope(services: Services, account: AccountId, user: str, sender: Address) -> None:
    """Refuse an envelope sender that is somebody else's."""
    if services.settings.sender_check is not SenderCheck.OFF and not await _theirs(services, account, user, sender):
        raise _refusal(user, sender)


async def check_header(services: Services, account: AccountId, user: str, header: HeaderBlock) -> None:
    """Refuse a header that names an author who is somebody else (AUTH-14)."""
    if services.settings.sender_check is not SenderCheck.BOTH:
        return
    for author in content.authors(header):
        if author is None or not await _theirs(services, account, user, author):
            raise _refusal(user, author)


async def _theirs(services: Services, account: AccountId, user: str, address: Address) -> bool:
    return await services.directory.may_send_as(account, address) or await services.policy.may_send_as(
        user, address
    )


def _refusal(user: str, address: Address | None) -> Refusal:
    what = "An author" if address is None else f"<{printable(str(address), 100)}>"
    text = f"{what} is not yours: you are {user}, and may write as that or as an address that leads to you"
    return Refusal(Reply(Code.NAME_NOT_ALLOWED, "5.7.1", text), detail=f"{user} as {address}")
