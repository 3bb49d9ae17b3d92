"""What is kept of a batch beside its jobs: its money, and where its files go.

A create is begun only when its price fits into what is left, checked and set
aside in one transaction, so that workers on many machines cannot overdraw it
together. One row for each attempt: nothing is counted twice by a replay.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from attrs import define, field, frozen
from sqlalchemy.dialects import postgresql, sqlite

from kling_async.durable._database import SCHEMA


@frozen(kw_only=True)
class Account:
    """A batch's money, in credits (2,000,000 are 1 USD).

    Attributes:
        budget: What it may cost in all; None for no bound.
        committed: What its jobs have cost, and what those under way will cost.
    """

    budget: float | None
    committed: float


@define(eq=False)
class BudgetStore:
    """The ledger of all batches of a database. Its methods block."""

    engine: sa.Engine
    _budgets: sa.Table = field(init=False)
    _entries: sa.Table = field(init=False)
    _folders: sa.Table = field(init=False)
    _upsert: sa.Insert = field(init=False)
    _budget_of: sa.Select[Any] = field(init=False)
    _folder_of: sa.Select[Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        schema = None if self._is_sqlite else SCHEMA
        tables = sa.MetaData(schema=schema)
        self._budgets = sa.Table(
            "kling_budgets",
            tables,
            sa.Column("batch", sa.Text, primary_key=True),
            sa.Column("credits", sa.Float, nullable=False),
        )
        self._entries = sa.Table(
            "kling_costs",
            tables,
            sa.Column("workflow_id", sa.Text, primary_key=True),
            sa.Column("batch", sa.Text, nullable=False, index=True),
            sa.Column("credits", sa.Float, nullable=False),
        )
        self._folders = sa.Table(
            "kling_folders",
            tables,
            sa.Column("batch", sa.Text, primary_key=True),
            sa.Column("folder", sa.Text, nullable=False),
        )
        insert = sqlite.insert if self._is_sqlite else postgresql.insert
        put = insert(self._entries)
        # Made once, which takes longer than to carry them out.
        self._budget_of, self._folder_of = (
            sa.select(column).where(column.table.c.batch == sa.bindparam("batch"))
            for column in (self._budgets.c.credits, self._folders.c.folder)
        )
        self._upsert = put.on_conflict_do_update(
            index_elements=["workflow_id"], set_={"credits": put.excluded.credits}
        )
        tables.create_all(self.engine)

    @property
    def _home(self) -> Path:
        """Where a database that is a file lies: folders beside it move with it."""
        url = self.engine.url
        in_memory = url.database in {None, "", ":memory:"}
        is_file = self._is_sqlite and not in_memory
        return Path(str(url.database)).absolute().parent if is_file else Path("/")

    def folder(self, batch: str) -> Path | None:
        """Tell where the files of a batch go that are named relatively."""
        with self.engine.connect() as connection:
            folder = connection.execute(self._folder_of, {"batch": batch}).scalar()
        return None if folder is None else self._home / folder

    def set_folder(self, batch: str, folder: Path) -> None:
        """Say where the files of a batch go."""
        table, folder = self._folders, folder.absolute()
        if self._is_sqlite and folder.is_relative_to(self._home):
            folder = folder.relative_to(self._home)
        row = {"batch": batch, "folder": str(folder)}
        with self.engine.begin() as connection:
            connection.execute(sa.delete(table).where(table.c.batch == batch))
            connection.execute(sa.insert(table).values(row))

    @property
    def _is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def set_limit(self, batch: str, credits_: float | None) -> None:
        """Set what a batch may cost in all, or lift the bound."""
        table = self._budgets
        with self.engine.begin() as connection:
            self._lock_batch(connection, batch)
            connection.execute(sa.delete(table).where(table.c.batch == batch))
            if credits_ is not None:
                row = {"batch": batch, "credits": credits_}
                connection.execute(sa.insert(table).values(row))

    def batches(self) -> list[str]:
        """Name the batches that have cost something, also where no job is left."""
        query = sa.select(self._entries.c.batch).distinct()
        with self.engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def account(self, batch: str) -> Account:
        """Tell how a batch stands."""
        with self.engine.begin() as connection:
            return self._read_account(connection, batch)

    def is_bounded(self, batch: str) -> bool:
        """Tell whether a batch has a budget; what costs nothing is not set aside."""
        with self.engine.connect() as connection:
            return self._read_budget(connection, batch) is not None

    def reserve(self, batch: str, workflow_id: str, price: float) -> Account | None:
        """Set a price aside, unless it does not fit: then tell how it stands.

        An attempt that has its money already keeps it.
        """
        entries = self._entries
        mine = sa.select(entries).where(entries.c.workflow_id == workflow_id)
        with self.engine.begin() as connection:
            self._lock_batch(connection, batch)
            if connection.execute(mine).first() is not None:
                return None
            account = self._read_account(connection, batch)
            if account.budget is not None:
                spent = account.committed >= account.budget
                if spent or account.committed + price > account.budget:
                    return account
            self._put(connection, batch, workflow_id, price)
            return None

    def settle(
        self,
        batch: str,
        workflow_id: str,
        credits_: float,
        *,
        instead_of: str | None = None,
    ) -> None:
        """Put what an attempt did cost in place of what was set aside for it.

        Args:
            batch: Its batch.
            workflow_id: The attempt.
            credits_: What it cost.
            instead_of: The attempt whose generation it went on with: one bill.
        """
        with self.engine.begin() as connection:
            self._put(connection, batch, workflow_id, credits_)
            if instead_of is not None:
                self._drop(connection, instead_of)

    def _put(
        self, connection: sa.Connection, batch: str, workflow_id: str, credits_: float
    ) -> None:
        row = {"workflow_id": workflow_id, "batch": batch, "credits": credits_}
        connection.execute(self._upsert, row)

    def _drop(self, connection: sa.Connection, workflow_id: str) -> None:
        entries = self._entries
        connection.execute(
            sa.delete(entries).where(entries.c.workflow_id == workflow_id)
        )

    def _read_account(self, connection: sa.Connection, batch: str) -> Account:
        entries = self._entries
        total = sa.select(sa.func.sum(entries.c.credits)).where(
            entries.c.batch == batch
        )
        return Account(
            budget=self._read_budget(connection, batch),
            committed=connection.execute(total).scalar() or 0.0,
        )

    def _read_budget(self, connection: sa.Connection, batch: str) -> float | None:
        found = connection.execute(self._budget_of, {"batch": batch})
        credits_: float | None = found.scalar()
        return credits_

    def _lock_batch(self, connection: sa.Connection, batch: str) -> None:
        """Let one transaction at a time decide on a batch's money."""
        if self._is_sqlite:
            # The driver begins a transaction, and so takes the lock, at a write.
            connection.exec_driver_sql("UPDATE kling_budgets SET credits = credits")
            return
        digest = hashlib.sha256(f"kling_async budget {batch}".encode()).digest()
        key = int.from_bytes(digest[:8], signed=True)
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
