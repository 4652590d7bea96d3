"""bgpctl's formats of OpenBSD 5.7, octet by octet."""

import re
import subprocess

import pytest

from gatepost.feeds.bgp.show import (
    RIB_HEAD,
    SUMMARY_HEAD,
    Messages,
    NeighborStatus,
    RibRow,
    neighbor,
    rib_row,
    summary,
    timeframe,
)

ROWS = (
    RibRow("192.0.2.77/32", "64.142.121.62", "64.142.121.62", "65066 65043", 0, selected=True),
    RibRow("192.0.2.77/32", "217.31.80.170", "217.31.80.170", "65066 65043 65044", 0),
    RibRow(
        "2001:db8::/48", "2001:db8::1", "64.142.121.62", "", 2, 120, 7, selected=True, internal=True, stale=True
    ),
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "Never"),
        (0, "00:00:00"),
        (86_399, "23:59:59"),
        (86_400, "1d00h00m"),
        (3 * 86_400 + 6 * 3600 + 17 * 60 + 59, "3d06h17m"),
        (7 * 86_400 - 1, "6d23h59m"),
        (14 * 86_400, "02w0d00h"),
    ],
)
def test_times_are_written_as_bgpctl_does(seconds: int | None, text: str) -> None:
    assert timeframe(seconds) == text


@pytest.mark.row("BG-07")
def test_the_summary_is_bgpctls() -> None:
    assert SUMMARY_HEAD == "Neighbor                   AS    MsgRcvd    MsgSent  OutQ Up/Down  State/PrfRcvd"
    up = NeighborStatus(
        "64.142.121.62",
        65066,
        "Established",
        since=3 * 86_400 + 6 * 3600 + 17 * 60,
        received=Messages(opens=1, updates=9_000, keepalives=1_000),
        sent=Messages(opens=1, keepalives=9_476),
        prefixes=28_839,
    )
    limited = NeighborStatus("217.31.80.170", 4_200_000_001, "Established", since=1, prefixes=48, max_prefix=1000)
    down = NeighborStatus("192.0.2.1", 65066, "Active", description="a description that is much too long for it")
    assert list(summary((up, limited, down))) == [
        SUMMARY_HEAD,
        "64.142.121.62           65066      10001       9477     0 3d06h17m  28839",
        "217.31.80.170      4200000001          0          0     0 00:00:01     48/1000",
        "a description that is m 65066          0          0     0 Never    Active",
    ]


@pytest.mark.row("BG-08")
def test_four_lines_stand_before_the_rows_of_the_rib() -> None:
    assert RIB_HEAD == (
        "flags: * = Valid, > = Selected, I = via IBGP, A = Announced, S = Stale",
        "origin: i = IGP, e = EGP, ? = Incomplete",
        "",
        "flags destination          gateway          lpref   med aspath origin",
    )
    assert [rib_row(each) for each in ROWS] == [
        "*>    192.0.2.77/32        64.142.121.62      100     0 65066 65043 i",
        "*     192.0.2.77/32        217.31.80.170      100     0 65066 65043 65044 i",
        "IS*>  2001:db8::/48        2001:db8::1        120     7 ?",
    ]


@pytest.mark.row("BG-08")
def test_the_articles_sed_makes_addresses_of_it() -> None:
    text = "".join(f"{line}\n" for line in (*RIB_HEAD, *map(rib_row, ROWS[:2])))
    words = ["sed", "-e", "1,4d", "-e", r"s/\/.*$//", "-e", r"s/[ \*\>]*//"]
    made = subprocess.run(words, input=text, capture_output=True, text=True, check=True)
    assert made.stdout == "192.0.2.77\n192.0.2.77\n"


def test_a_neighbor_is_shown_with_its_timers_counters_and_last_error() -> None:
    text = "\n".join(
        neighbor(
            NeighborStatus(
                "64.142.121.62",
                65066,
                "Idle",
                description="rs",
                since=61,
                max_prefix=1000,
                max_prefix_restart=300,
                multihop=64,
                holdtime=90,
                capabilities=("Route Refresh",),
                received=Messages(updates=2),
                prefixes_received=7,
                last_error="hold timer expired",
            )
        )
    )
    assert text.startswith(
        "BGP neighbor is 64.142.121.62, remote AS 65066, Multihop (64)\n"
        " Description: rs\n"
        " Max-prefix: 1000 (restart 5)\n"
        "  BGP version 4, remote router-id 0.0.0.0\n"
        "  BGP state = Idle, down for 00:01:01\n"
        "  Last read Never, holdtime 90s, keepalive interval 30s\n"
        "  Neighbor capabilities:\n"
        "    Route Refresh\n"
    )
    assert re.search(r"^  Updates {18}0 {10}2$", text, re.MULTILINE)
    assert re.search(r"^  Updates {18}0 {10}7$", text, re.MULTILINE)
    assert "Last error: hold timer expired" in text
