"""The tables domain, account and alias."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

_ACCOUNT: Final = (
    "SELECT id, address, admin, enabled, quota_octets, quota_messages, created_at, password FROM account"
)

DOMAIN: Final = Statement("accounts.domain", "SELECT name, created_at FROM domain WHERE name = :name")
DOMAINS: Final = Statement("accounts.domains", "SELECT name, created_at FROM domain ORDER BY name")
ADD_DOMAIN: Final = Statement("accounts.add_domain", "INSERT INTO domain (name, created_at) VALUES (:name, :now)")
DEL_DOMAIN: Final = Statement(
    "accounts.del_domain",
    "DELETE FROM domain WHERE name = :name AND NOT EXISTS (SELECT 1 FROM account AS a WHERE a.domain = :name)",
    needs_row=True,
)
DEL_ALIASES_OF_DOMAIN: Final = Statement("accounts.del_aliases_of_domain", "DELETE FROM alias WHERE domain = :name")

ACCOUNT: Final = Statement("accounts.account", f"{_ACCOUNT} WHERE address = :address")
ACCOUNT_BY_ID: Final = Statement("accounts.account_by_id", f"{_ACCOUNT} WHERE id = :account")
ACCOUNTS: Final = Statement("accounts.accounts", f"{_ACCOUNT} ORDER BY domain, address")
POSTMASTER: Final = Statement(
    "accounts.postmaster",
    f"{_ACCOUNT} WHERE enabled = 1 AND (domain = :domain OR admin = 1)"
    " ORDER BY CASE WHEN domain = :domain THEN 1 ELSE 0 END + 2 * admin DESC, created_at, id LIMIT 1",
)
ADD_ACCOUNT: Final = Statement(
    "accounts.add_account",
    "INSERT INTO account"
    " (id, address, domain, password, admin, enabled, quota_octets, quota_messages, created_at)"
    " SELECT :id, :address, d.name, :password, :admin, 1, :quota_octets, :quota_messages, :now"
    " FROM domain AS d WHERE d.name = :domain",
    needs_row=True,
)
SET_PASSWORD: Final = Statement(
    "accounts.set_password", "UPDATE account SET password = :password WHERE address = :address", needs_row=True
)
RENEW_PASSWORD: Final = Statement(
    "accounts.renew_password", "UPDATE account SET password = :password WHERE id = :account AND password = :old"
)
SET_QUOTA: Final = Statement(
    "accounts.set_quota",
    "UPDATE account SET quota_octets = :quota_octets, quota_messages = :quota_messages WHERE address = :address",
    needs_row=True,
)
SET_ENABLED: Final = Statement(
    "accounts.set_enabled", "UPDATE account SET enabled = :enabled WHERE address = :address", needs_row=True
)
SET_ADMIN: Final = Statement(
    "accounts.set_admin", "UPDATE account SET admin = :admin WHERE address = :address", needs_row=True
)
DEL_ACCOUNT: Final = Statement("accounts.del_account", "DELETE FROM account WHERE id = :account", needs_row=True)

TARGETS: Final = Statement(
    "accounts.targets",
    "SELECT target_local, target_domain FROM alias WHERE address = :address ORDER BY target_key",
)
ALIASES: Final = Statement(
    "accounts.aliases",
    "SELECT address, target_local, target_domain FROM alias ORDER BY domain, address, target_key",
)
ADDRESSES: Final = Statement(
    "accounts.addresses", "SELECT address FROM account UNION SELECT address FROM alias ORDER BY address"
)
ALIASES_TO: Final = Statement(
    "accounts.aliases_to", "SELECT address FROM alias WHERE target_key = :target ORDER BY address LIMIT 1000"
)
ADD_TARGET: Final = Statement(
    "accounts.add_target",
    "INSERT INTO alias (address, target_key, target_local, target_domain, domain)"
    " SELECT :address, :target_key, :target_local, :target_domain, d.name FROM domain AS d WHERE d.name = :domain"
    " ON CONFLICT (address, target_key) DO UPDATE SET"
    " target_local = excluded.target_local, target_domain = excluded.target_domain",
    needs_row=True,
)
DEL_ALIAS: Final = Statement("accounts.del_alias", "DELETE FROM alias WHERE address = :address", needs_row=True)
DEL_TARGET: Final = Statement(
    "accounts.del_target",
    "DELETE FROM alias WHERE address = :address AND target_key = :target_key",
    needs_row=True,
)

STATEMENTS: Final = (
    DOMAIN,
    DOMAINS,
    ADD_DOMAIN,
    DEL_DOMAIN,
    DEL_ALIASES_OF_DOMAIN,
    ACCOUNT,
    ACCOUNT_BY_ID,
    ACCOUNTS,
    POSTMASTER,
    ADD_ACCOUNT,
    SET_PASSWORD,
    RENEW_PASSWORD,
    SET_QUOTA,
    SET_ENABLED,
    SET_ADMIN,
    DEL_ACCOUNT,
    TARGETS,
    ALIASES,
    ADDRESSES,
    ALIASES_TO,
    ADD_TARGET,
    DEL_ALIAS,
    DEL_TARGET,
)
SCHEMA: Final[Schema] = load_schema("accounts", __package__, STATEMENTS)
