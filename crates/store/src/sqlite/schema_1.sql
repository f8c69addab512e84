-- The published layout (docs/protocol/subscriptions.md section 6). It must not be changed: the
-- published broadcaster opens the same file. `PRAGMA user_version` stays 0.

CREATE TABLE IF NOT EXISTS httppubsub_subscription_exacts (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL,
    exact BLOB NOT NULL,
    missed_url TEXT NULL,
    missed_lock_id INTEGER NULL,
    missed_lock_expires_at INTEGER NULL,
    missed_attempts INTEGER NULL,
    missed_next_retry_at INTEGER NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS idx_httppubsub_subscription_exacts_exact_url
    ON httppubsub_subscription_exacts (exact, url);
CREATE INDEX IF NOT EXISTS idx_httppubsub_subscription_exacts_next_retry_at
    ON httppubsub_subscription_exacts (missed_next_retry_at)
    WHERE missed_next_retry_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_httppubsub_subscription_exacts_missed_url_topic
    ON httppubsub_subscription_exacts (missed_url, exact)
    WHERE missed_url IS NOT NULL;

CREATE TABLE IF NOT EXISTS httppubsub_subscription_globs (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL,
    glob TEXT NOT NULL,
    missed_url TEXT NULL,
    missed_lock_id INTEGER NULL,
    missed_lock_expires_at INTEGER NULL,
    missed_topic BLOB NULL,
    missed_attempts INTEGER NULL,
    missed_next_retry_at INTEGER NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS idx_httppubsub_subscription_globs_glob_url
    ON httppubsub_subscription_globs (glob, url);
CREATE INDEX IF NOT EXISTS idx_httppubsub_subscription_globs_next_retry_at
    ON httppubsub_subscription_globs (missed_next_retry_at)
    WHERE missed_next_retry_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_httppubsub_subscription_globs_missed_url_topic
    ON httppubsub_subscription_globs (missed_url, missed_topic)
    WHERE missed_url IS NOT NULL;

-- Ours: one row, how many migrations were run.
CREATE TABLE httppubsub_schema (version INTEGER NOT NULL);
INSERT INTO httppubsub_schema (version) VALUES (0);

-- Ours: all of one url, in etag order, without looking at the rows of others.
CREATE INDEX httppubsub_exacts_of_url
    ON httppubsub_subscription_exacts (url, exact, missed_url);
CREATE INDEX httppubsub_globs_of_url
    ON httppubsub_subscription_globs (url, glob, missed_url);

-- Ours: the notices that are held.
CREATE INDEX httppubsub_exacts_held
    ON httppubsub_subscription_exacts (missed_lock_expires_at)
    WHERE missed_lock_expires_at IS NOT NULL;
CREATE INDEX httppubsub_globs_held
    ON httppubsub_subscription_globs (missed_lock_expires_at)
    WHERE missed_lock_expires_at IS NOT NULL;

-- Ours: the last changes of what is subscribed, whoever made them, for those who keep a copy in
-- memory. Kind 0 is exact, 1 glob. The columns without a type keep whatever was written.
CREATE TABLE httppubsub_changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    added INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    url,
    interest,
    missed_url
);

CREATE TRIGGER httppubsub_exacts_inserted
AFTER INSERT ON httppubsub_subscription_exacts BEGIN
    INSERT INTO httppubsub_changes (added, kind, url, interest, missed_url)
    VALUES (1, 0, NEW.url, NEW.exact, NEW.missed_url);
END;
CREATE TRIGGER httppubsub_exacts_deleted
AFTER DELETE ON httppubsub_subscription_exacts BEGIN
    INSERT INTO httppubsub_changes (added, kind, url, interest)
    VALUES (0, 0, OLD.url, OLD.exact);
END;
CREATE TRIGGER httppubsub_exacts_updated
AFTER UPDATE OF url, exact, missed_url ON httppubsub_subscription_exacts
WHEN OLD.url IS NOT NEW.url OR OLD.exact IS NOT NEW.exact OR OLD.missed_url IS NOT NEW.missed_url
BEGIN
    INSERT INTO httppubsub_changes (added, kind, url, interest)
    SELECT 0, 0, OLD.url, OLD.exact
    WHERE OLD.url IS NOT NEW.url OR OLD.exact IS NOT NEW.exact;
    INSERT INTO httppubsub_changes (added, kind, url, interest, missed_url)
    VALUES (1, 0, NEW.url, NEW.exact, NEW.missed_url);
END;

CREATE TRIGGER httppubsub_globs_inserted
AFTER INSERT ON httppubsub_subscription_globs BEGIN
    INSERT INTO httppubsub_changes (added, kind, url, interest, missed_url)
    VALUES (1, 1, NEW.url, NEW.glob, NEW.missed_url);
END;
CREATE TRIGGER httppubsub_globs_deleted
AFTER DELETE ON httppubsub_subscription_globs BEGIN
    INSERT INTO httppubsub_changes (added, kind, url, interest)
    VALUES (0, 1, OLD.url, OLD.glob);
END;
CREATE TRIGGER httppubsub_globs_updated
AFTER UPDATE OF url, glob, missed_url ON httppubsub_subscription_globs
WHEN OLD.url IS NOT NEW.url OR OLD.glob IS NOT NEW.glob OR OLD.missed_url IS NOT NEW.missed_url
BEGIN
    INSERT INTO httppubsub_changes (added, kind, url, interest)
    SELECT 0, 1, OLD.url, OLD.glob
    WHERE OLD.url IS NOT NEW.url OR OLD.glob IS NOT NEW.glob;
    INSERT INTO httppubsub_changes (added, kind, url, interest, missed_url)
    VALUES (1, 1, NEW.url, NEW.glob, NEW.missed_url);
END;
