"""Our own MTA-STS policy: for our domains, under the name that the RFC says, and for nobody else."""

import pytest

from gatepost.base.units import Seconds
from gatepost.codec.mtasts import MAX_AGE_MOST, BadPolicy, Mode, Policy, read_policy
from gatepost.web.mtasts import OwnPolicySettings, Published, own_policy, page, policy_id
from gatepost.web.page import Answer, Asked
from tests.support.loop import run

ENFORCED = OwnPolicySettings(Published.ENFORCE, ("mx1.here.example", "*.Example.net."), Seconds(86_400))


async def ours(domain: str) -> bool:
    return domain == "here.example"


def ask(host: str, settings: OwnPolicySettings = ENFORCED) -> Answer:
    """Ask for the policy under a name."""

    async def asked() -> Answer:
        return await page(lambda: settings, "mx.here.example", ours)(Asked("GET", host, "/.well-known/mta-sts.txt"))

    return run(asked())


def test_the_policy_of_our_domains_is_plain_text_that_others_can_read() -> None:
    answer = ask("mta-sts.here.example")
    assert (answer.status, answer.type) == (200, "text/plain")
    assert read_policy(answer.body) == Policy(Mode.ENFORCE, 86_400, ("mx1.here.example", "*.example.net"))


@pytest.mark.parametrize(
    "host", ["here.example", "mta-sts.other.example", "mta-sts.mta-sts.here.example", "mta-sts.", ""]
)
def test_under_any_other_name_there_is_none(host: str) -> None:
    assert ask(host).status == 404


def test_without_the_setting_there_is_none() -> None:
    assert ask("mta-sts.here.example", OwnPolicySettings()).status == 404


def test_a_policy_is_taken_back_by_one_that_says_none() -> None:
    answer = ask("mta-sts.here.example", OwnPolicySettings(Published.NONE))
    assert read_policy(answer.body).mode is Mode.NONE


def test_another_policy_has_another_id() -> None:
    ids = set()
    for mode in (Published.TESTING, Published.ENFORCE, Published.NONE):
        policy = own_policy(OwnPolicySettings(mode), "mx.here.example")
        assert policy is not None
        assert policy_id(policy) == policy_id(policy)
        ids.add(policy_id(policy))
    assert len(ids) == 3
    assert all(len(each) <= 32 and each.isalnum() for each in ids)


@pytest.mark.parametrize(
    "wrong", [{"mx": ("mail*.example",)}, {"max_age": Seconds(MAX_AGE_MOST + 1)}, {"mx": ("",)}]
)
def test_what_can_be_no_policy_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadPolicy):
        OwnPolicySettings(Published.TESTING, **wrong)  # type: ignore[arg-type]  # the values of one parameter each
