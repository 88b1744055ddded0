"""The tables of `catalogue.sqlite`, and how an older file gets them."""

from __future__ import annotations

import sqlite3

# One script per version, applied in order and never edited afterwards; PRAGMA user_version counts them. A
# statement ends its line.
MIGRATIONS = (
    """
    -- Small facts. Always there: dim, the descriptors' length; run, the last number of an indexing run; and
    -- epoch, drawn anew whenever stored descriptors are replaced, which tells readers to load them again.
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE items (
        key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL
    );
    -- One row per value, which keeps its type; a boolean is a one-byte blob, so that it differs from 0 and 1.
    -- `folded` is what filters compare: text without case, anything else as it is.
    CREATE TABLE attributes (
        item INTEGER NOT NULL REFERENCES items ON DELETE CASCADE,
        position INTEGER NOT NULL, name TEXT NOT NULL, value NOT NULL, folded NOT NULL,
        PRIMARY KEY (item, position)
    ) WITHOUT ROWID;
    CREATE INDEX attributes_by_value ON attributes (name, folded);  -- covers `item`, part of the primary key
    CREATE TABLE pictures (
        key INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items ON DELETE CASCADE,
        origin TEXT NOT NULL, source TEXT NOT NULL, sha256 TEXT NOT NULL,
        width INTEGER NOT NULL, height INTEGER NOT NULL,
        run INTEGER NOT NULL,  -- in which it was last seen
        UNIQUE (item, sha256)
    );
    CREATE INDEX pictures_by_content ON pictures (sha256);
    CREATE INDEX pictures_by_source ON pictures (origin, source);
    CREATE TABLE regions (
        key INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: readers ask for newer ones
        picture INTEGER NOT NULL REFERENCES pictures ON DELETE CASCADE,
        x0 REAL, y0 REAL, x1 REAL, y1 REAL,  -- all NULL: the whole picture
        score REAL NOT NULL
    );
    CREATE INDEX regions_by_picture ON regions (picture);
    CREATE TABLE vectors (  -- little-endian fp16
        region INTEGER PRIMARY KEY REFERENCES regions ON DELETE CASCADE, vector BLOB NOT NULL
    );
    CREATE TABLE vectors_next (  -- the same regions under another encoder, until `switch`
        region INTEGER PRIMARY KEY REFERENCES regions ON DELETE CASCADE, vector BLOB NOT NULL
    );
    CREATE TABLE captions (
        region INTEGER PRIMARY KEY REFERENCES regions ON DELETE CASCADE, text TEXT NOT NULL, by TEXT NOT NULL
    );
    CREATE TABLE removed (seq INTEGER PRIMARY KEY AUTOINCREMENT, region INTEGER NOT NULL);
    CREATE TRIGGER region_removed AFTER DELETE ON regions BEGIN
        INSERT INTO removed (region) VALUES (old.key);
    END;
    CREATE VIRTUAL TABLE words USING fts5 (  -- rowid: the item's key
        title, attributes, captions, tokenize = 'porter unicode61 remove_diacritics 2'
    );
    CREATE TRIGGER item_removed AFTER DELETE ON items BEGIN
        DELETE FROM words WHERE rowid = old.key;
    END;
    """,
    """
    CREATE TABLE meanings (  -- the captions' own descriptors, like `vectors`
        region INTEGER PRIMARY KEY REFERENCES captions ON DELETE CASCADE, vector BLOB NOT NULL
    );
    CREATE TABLE meanings_next (  -- of the same captions under another encoder, until `switch`
        region INTEGER PRIMARY KEY REFERENCES captions ON DELETE CASCADE, vector BLOB NOT NULL
    );
    CREATE TABLE claims (  -- what a caption says, piece by piece
        region INTEGER NOT NULL REFERENCES captions ON DELETE CASCADE,
        position INTEGER NOT NULL, text TEXT NOT NULL, attribute TEXT NOT NULL,
        value TEXT NOT NULL, folded NOT NULL,  -- untyped as of attributes: no number compares with text
        support TEXT NOT NULL,  -- a JSON object: from 0 to 1 by check
        believed INTEGER NOT NULL,
        PRIMARY KEY (region, position)
    ) WITHOUT ROWID;
    -- What filters on `seen_` names ask; covers `region`, part of the primary key.
    CREATE INDEX claims_by_value ON claims (attribute, folded, believed) WHERE believed AND attribute <> '';
    """,
)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a schema up to date inside a transaction, which `executescript` would end. Version 0 is empty."""
    for script in MIGRATIONS[version:]:
        statement = ""
        for line in script.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                connection.execute(statement)
                statement = ""
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
