"""The backup MX: what a primary tells its backups, and how a backup knows whom the primary has mail for."""
