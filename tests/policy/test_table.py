"""Tables: what matches, what is refused, how mistakes are told."""

from pathlib import Path

import pytest

from gatepost.base.address import Address
from gatepost.base.settings import BadSetting
from gatepost.policy.table import AddressList, DomainList, Networks, Table, TableSettings, load_table


def read(tmp_path: Path, text: str) -> Table:
    file = tmp_path / "table"
    file.write_text(text)
    return load_table("t", TableSettings(file=str(file)))


def test_domains_match_without_case_and_with_wildcards() -> None:
    domains = DomainList(["Example.ORG", "*.example.net", "bücher.example"])
    assert "EXAMPLE.org" in domains
    assert "a.b.Example.net" in domains
    assert "xn--bcher-kva.example" in domains
    assert "example.net" not in domains
    assert "example.org.evil.example" not in domains
    assert "evilexample.org" not in domains


def test_networks_of_both_families() -> None:
    networks = Networks(["192.0.2.0/24", "2001:db8::/32", "ipv6:2001:db9::1", "local", "198.51.100.7"])
    for ip in ("192.0.2.77", "2001:db8:1::1", "2001:db9::1", "127.0.0.1", "::1", "198.51.100.7"):
        assert ip in networks
    for ip in ("192.0.3.1", "2001:db9::2", "198.51.100.8", "not an ip", ""):
        assert ip not in networks


def test_addresses_users_domains_and_the_null_sender() -> None:
    addresses = AddressList(["joe@example.org", "@example.net", "root", "bob@*.example", "<>"])
    for local, domain in (
        ("JOE", "example.org"),
        ("x", "Example.Net"),
        ("Root", "anywhere.test"),
        ("bob", "a.example"),
    ):
        assert Address(local, domain) in addresses
    for local, domain in (("jim", "example.org"), ("x", "sub.example.net"), ("eve", "a.example")):
        assert Address(local, domain) not in addresses
    assert None in addresses
    assert None not in AddressList(["root"])


def test_a_kelvin_sign_is_not_a_k() -> None:
    assert Address("\N{KELVIN SIGN}im", "example.org") not in AddressList(["kim@example.org"])


@pytest.mark.row("MT-10")
def test_an_empty_file_is_an_empty_list_and_a_warning(tmp_path: Path) -> None:
    warned: list[str] = []
    file = tmp_path / "blocked"
    file.write_text("# nobody yet\n\n")
    table = load_table("blocked", TableSettings(file=str(file)), lambda event, **fields: warned.append(event))
    assert (table.items, warned) == ((), ["table_empty"])
    assert Address("a", "b.example") not in table.addresses()


@pytest.mark.row("MT-10")
def test_a_missing_file_names_itself_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"nowhere.*touch"):
        load_table("blocked", TableSettings(file=str(tmp_path / "nowhere")))


@pytest.mark.row("MT-06", "MT-07")
def test_files_are_lists_or_mappings_by_their_first_entry(tmp_path: Path) -> None:
    listed = read(tmp_path, "# ours\nexample.org\n  example.net  # the other\n")
    assert listed.items == (("example.org", None), ("example.net", None))
    mapped = read(
        tmp_path, "joe.bloggs@example.com\tjoe\nJim@example.com: jim, jim@far.example\r\n@example.com x\n"
    )
    assert mapped.mapping() == {
        "joe.bloggs@example.com": ("joe",),
        "jim@example.com": ("jim", "jim@far.example"),
        "@example.com": ("x",),
    }
    with pytest.raises(BadSetting, match="line 2"):
        read(tmp_path, "a@b.example\nc@d.example user\n")


def test_an_ipv6_network_is_no_mapping(tmp_path: Path) -> None:
    assert read(tmp_path, "2001:db8::/32\n192.0.2.1\n").keys == ("2001:db8::/32", "192.0.2.1")


def test_a_table_that_is_no_network_list_says_which_entry() -> None:
    with pytest.raises(BadSetting, match="example"):
        Table("t", (("192.0.2.0/24", None), ("example.org", None))).networks()


def test_included_files_are_values(tmp_path: Path) -> None:
    (tmp_path / "team").write_text("ann@here.example\njoe@here.example\n")
    table = read(tmp_path, f"team: :include:{tmp_path / 'team'}, eve\n")
    assert table.mapping()["team"] == ("ann@here.example", "joe@here.example", "eve")
    (tmp_path / "team").write_text(f":include:{tmp_path / 'team'}\n")
    with pytest.raises(BadSetting, match=r"table line 1: .*team: :include: nests deeper"):
        load_table("t", TableSettings(file=str(tmp_path / "table")))


def test_only_one_source_of_entries() -> None:
    with pytest.raises(ValueError, match="one of"):
        TableSettings(file="x", values=("y",))
