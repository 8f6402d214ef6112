"""How Alembic runs here: always on the connection, and so in the transaction, that database.py hands over."""

from alembic import context

from teacher_server.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True
)
context.run_migrations()
