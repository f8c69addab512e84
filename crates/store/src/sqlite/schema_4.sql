-- Ours: large sets under way. They are written in pieces, so that others get to write in between, and are
-- all or nothing all the same: until a set is decided, rows that are new by it do not count, and from
-- then on those that are surplus do not. What a kill leaves is undone before, and finished after.
CREATE TABLE httppubsub_sets (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    url TEXT NOT NULL,
    is_decided INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX httppubsub_sets_of_url ON httppubsub_sets (url);

-- What they change. Kind 0 is exact, 1 glob; change 0 is a new row, 1 a surplus one, 2 one that gets this
-- recovery url.
CREATE TABLE httppubsub_set_rows (
    set_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    interest BLOB NOT NULL,
    change INTEGER NOT NULL,
    missed_url TEXT NULL,
    PRIMARY KEY (set_id, kind, interest)
) WITHOUT ROWID;
