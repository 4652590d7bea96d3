"""psycopg 3 (through our own engine) against asyncpg, on a real PostgreSQL with fsync, socket only.

    python -m venv /tmp/asyncpg && /tmp/asyncpg/bin/pip install asyncpg
    PYTHONPATH=$(echo /tmp/asyncpg/lib/python3*/site-packages) python benchmarks/postgres.py --rounds 3

Units are a mail's: one body of 2,500 octets and four more rows, in one transaction, from 50 senders over 8
connections. asyncpg has no pipeline for different statements, so it makes a round trip for each; our engine checks
parameters, tells notices and batches the unit into one round trip. Reads are a row by its key, and 10,000 rows.
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import psycopg
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.postgres import server

from gatepost.db.postgres import open_database
from gatepost.db.unit import Schema, Statement, Step, Unit

BODY: Final = Statement("b.body", "INSERT INTO body (id, content) VALUES (:id, :content)")
ROW: Final = Statement("b.row", "INSERT INTO facts (id, part, words) VALUES (:id, :part, :words)", needs_row=True)
ONE: Final = Statement("b.one", "SELECT part, words FROM facts WHERE id = :id")
MANY: Final = Statement("b.many", "SELECT id, part, words FROM facts ORDER BY id, part LIMIT 10000")
SCHEMA: Final = Schema(
    "b",
    (
        ("0001_body", "CREATE TABLE body (\n  id {ID},\n  content {OCTETS}\n);\n"),
        ("0002_facts", "CREATE TABLE facts (id BIGINT, part BIGINT, words TEXT, PRIMARY KEY (id, part));\n"),
    ),
    (BODY, ROW, ONE, MANY),
)
SENDERS: Final = 50
CONNECTIONS: Final = 8
CONTENT: Final = os.urandom(2500)
WORDS: Final = "x" * 200
Do = Callable[[int], Awaitable[object]]


async def timed(count: int, at_once: int, do: Do) -> dict[str, float]:
    """Do something `count` times, `at_once` at a time."""
    numbers, took = itertools.count(1), []

    async def work() -> None:
        while (number := next(numbers)) <= count:
            began = time.perf_counter()
            await do(number)
            took.append(time.perf_counter() - began)

    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "per_s": round(count / seconds, 1),
        "client_cpu_us": round(cpu / count * 1e6, 1),
        "p99_ms": round(statistics.quantiles(took, n=100)[98] * 1e3, 2),
    }


async def with_psycopg(dsn: str, units: int) -> dict[str, dict[str, float]]:
    """Measure our engine."""
    database = await open_database(dsn, (SCHEMA,))

    async def unit(number: int) -> None:
        facts = (Step(ROW, {"id": number, "part": part, "words": WORDS}) for part in range(4))
        await database.commit(Unit((Step(BODY, {"id": number, "content": CONTENT}), *facts)))

    found = {"unit": await timed(units, SENDERS, unit)}
    found["read of 4 rows"] = await timed(units, SENDERS, lambda number: database.read(ONE, {"id": number}))
    found["read of 10,000 rows"] = await timed(10, 1, lambda _: database.read_long(MANY, {}))
    await database.close()
    return found


async def with_asyncpg(asyncpg: Any, dsn: dict[str, str], units: int) -> dict[str, dict[str, float]]:
    """Measure the other driver, with the same pool and the statements spelled for it."""
    pool = await asyncpg.create_pool(**dsn, min_size=CONNECTIONS, max_size=CONNECTIONS)

    async def unit(number: int) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO body (id, content) VALUES ($1, $2)", number, CONTENT)
            for part in range(4):
                text = "INSERT INTO facts (id, part, words) VALUES ($1, $2, $3)"
                await connection.execute(text, number, part, WORDS)

    async def read(number: int) -> None:
        async with pool.acquire() as connection:
            await connection.fetch("SELECT part, words FROM facts WHERE id = $1", number)

    async def read_many(_: int) -> None:
        async with pool.acquire() as connection:
            await connection.fetch("SELECT id, part, words FROM facts ORDER BY id, part LIMIT 10000")

    found = {"unit": await timed(units, SENDERS, unit)}
    found["read of 4 rows"] = await timed(units, SENDERS, read)
    found["read of 10,000 rows"] = await timed(10, 1, read_many)
    await pool.close()
    return found


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run both, one after the other, as often as asked."""
    try:
        import asyncpg  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        asyncpg = None
        print("asyncpg is not installed here: only our engine is measured", file=sys.stderr)
    folder, found = server(), []
    admin = psycopg.connect(f"host={folder} user=gatepost dbname=postgres", autocommit=True)
    admin.execute("ALTER SYSTEM SET fsync = on")
    admin.execute("SELECT pg_reload_conf()")
    for turn in range(options.rounds):
        for driver in ("psycopg", "asyncpg") if asyncpg else ("psycopg",):
            name = f"{driver}{turn}"
            admin.execute(f"CREATE DATABASE {name}".encode())
            dsn = f"host={folder} user=gatepost dbname={name}"
            if driver == "psycopg":
                figures = await with_psycopg(dsn, options.units)
            else:
                await (await open_database(dsn, (SCHEMA,))).close()
                figures = await with_asyncpg(
                    asyncpg, {"host": str(folder), "user": "gatepost", "database": name}, options.units
                )
            found.append({"driver": driver, "round": turn, **figures})
            print(json.dumps(found[-1]), flush=True)
    admin.close()
    return found


def main() -> None:
    """Parse the command line, measure, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--units", type=int, default=3000)
    found = uvloop.run(measure(parser.parse_args()))
    for driver in dict.fromkeys(each["driver"] for each in found):
        runs = [each for each in found if each["driver"] == driver]
        for work in ("unit", "read of 4 rows", "read of 10,000 rows"):
            medians = {key: statistics.median(run[work][key] for run in runs) for key in runs[0][work]}
            print(f"{driver:<8} {work:<20} {json.dumps(medians)}")


if __name__ == "__main__":
    main()
