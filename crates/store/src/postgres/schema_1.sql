-- Everything that several broadcasters share. Bytes are kept as bytes: topics need not be UTF-8, and
-- text cannot hold all that the wire can say. What is long is found by its SHA-256: entries of an
-- index have to be short.

-- Kind 0 is an exact topic, 1 a glob. A recovery url that is empty is none.
CREATE TABLE httppubsub_subscriptions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url bytea NOT NULL,
    kind smallint NOT NULL CHECK (kind IN (0, 1)),
    interest bytea NOT NULL,
    recovery bytea NULL CHECK (recovery <> '')
);
CREATE UNIQUE INDEX httppubsub_subscriptions_key
    ON httppubsub_subscriptions (sha256(url), kind, sha256(interest));

-- What is owed: one notice for a subscription at most. Times are seconds since the epoch.
CREATE TABLE httppubsub_notices (
    subscription bigint PRIMARY KEY REFERENCES httppubsub_subscriptions ON DELETE CASCADE,
    topic bytea NOT NULL,
    due bigint NOT NULL,
    attempts bigint NOT NULL,
    lock bigint NULL,
    held_until double precision NULL
);
CREATE INDEX httppubsub_notices_due ON httppubsub_notices (due);
CREATE INDEX httppubsub_notices_held ON httppubsub_notices (held_until)
    WHERE held_until IS NOT NULL;

-- Notifications on these topics may be on their way from this broadcaster, until then (seconds since
-- the epoch). What is left of a broadcaster that was killed was missed.
CREATE TABLE httppubsub_in_flight (
    broadcaster bytea NOT NULL,
    topic bytea NOT NULL,
    until bigint NOT NULL
);
CREATE UNIQUE INDEX httppubsub_in_flight_key
    ON httppubsub_in_flight (sha256(broadcaster), sha256(topic));
CREATE INDEX httppubsub_in_flight_until ON httppubsub_in_flight (until);

-- The change sequence. A number is taken after the rows that changed were locked, so of two changes
-- of one subscription the later has the larger number, and whoever sees it sees the earlier. Of
-- others a smaller number may become visible later.
CREATE TABLE httppubsub_changes (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    added boolean NOT NULL,
    kind smallint NOT NULL,
    url bytea NOT NULL,
    interest bytea NOT NULL,
    recovery bytea NULL
);

-- Changes up to `trimmed_to` are forgotten. Every transaction that may have one of the numbers up to
-- `mark_seq` has ended when the oldest that runs is `mark_xid` or a later one.
CREATE TABLE httppubsub_log (
    trimmed_to bigint NOT NULL,
    mark_seq bigint NOT NULL,
    mark_xid xid8 NOT NULL
);
INSERT INTO httppubsub_log VALUES (0, 0, '0');

CREATE FUNCTION httppubsub_note_added() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO httppubsub_changes (added, kind, url, interest, recovery)
    SELECT true, kind, url, interest, recovery FROM new_rows;
    RETURN NULL;
END $$;

CREATE FUNCTION httppubsub_note_removed() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO httppubsub_changes (added, kind, url, interest)
    SELECT false, kind, url, interest FROM old_rows;
    RETURN NULL;
END $$;

CREATE FUNCTION httppubsub_note_updated() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO httppubsub_changes (added, kind, url, interest)
    SELECT false, one.kind, one.url, one.interest
    FROM old_rows one JOIN new_rows other USING (id)
    WHERE (one.kind, one.url, one.interest) <> (other.kind, other.url, other.interest);
    INSERT INTO httppubsub_changes (added, kind, url, interest, recovery)
    SELECT true, other.kind, other.url, other.interest, other.recovery
    FROM old_rows one JOIN new_rows other USING (id)
    WHERE (one.kind, one.url, one.interest, one.recovery)
        IS DISTINCT FROM (other.kind, other.url, other.interest, other.recovery);
    -- Nobody can be told any more of what may have been missed.
    DELETE FROM httppubsub_notices USING new_rows
    WHERE subscription = new_rows.id AND new_rows.recovery IS NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER httppubsub_added AFTER INSERT ON httppubsub_subscriptions
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION httppubsub_note_added();
CREATE TRIGGER httppubsub_removed AFTER DELETE ON httppubsub_subscriptions
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION httppubsub_note_removed();
CREATE TRIGGER httppubsub_updated AFTER UPDATE ON httppubsub_subscriptions
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION httppubsub_note_updated();

-- Makes the subscriptions of a url exactly those listed. One at a time for each url: what is left is
-- one of the sets that were asked for. The lists name each interest once; '' is no recovery url.
CREATE FUNCTION httppubsub_set(
    of_url bytea,
    kinds smallint[],
    interests bytea[],
    recoveries bytea[],
    OUT added bigint,
    OUT removed bigint,
    OUT updated bigint
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(
        ('x' || substr(encode(sha256(of_url), 'hex'), 1, 16))::bit(64)::bigint);
    DELETE FROM httppubsub_subscriptions it
    WHERE sha256(it.url) = sha256(of_url) AND NOT EXISTS (
        SELECT 1 FROM unnest(kinds, interests) AS wanted (kind, interest)
        WHERE wanted.kind = it.kind AND wanted.interest = it.interest);
    GET DIAGNOSTICS removed = ROW_COUNT;
    UPDATE httppubsub_subscriptions it SET recovery = nullif(wanted.recovery, '')
    FROM unnest(kinds, interests, recoveries) AS wanted (kind, interest, recovery)
    WHERE sha256(it.url) = sha256(of_url) AND wanted.kind = it.kind
        AND wanted.interest = it.interest
        AND it.recovery IS DISTINCT FROM nullif(wanted.recovery, '');
    GET DIAGNOSTICS updated = ROW_COUNT;
    INSERT INTO httppubsub_subscriptions (url, kind, interest, recovery)
    SELECT of_url, wanted.kind, wanted.interest, nullif(wanted.recovery, '')
    FROM unnest(kinds, interests, recoveries) AS wanted (kind, interest, recovery)
    WHERE NOT EXISTS (
        SELECT 1 FROM httppubsub_subscriptions it
        WHERE sha256(it.url) = sha256(of_url) AND it.kind = wanted.kind
            AND it.interest = wanted.interest)
    -- A SUBSCRIBE that came in between is before this in the order of things.
    ON CONFLICT (sha256(url), kind, sha256(interest)) DO UPDATE SET recovery = excluded.recovery;
    GET DIAGNOSTICS added = ROW_COUNT;
END $$;

-- Broadcasters that share this database, and until when each is believed to live.
CREATE TABLE httppubsub_broadcasters (
    url bytea NOT NULL,
    instance bigint NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    alive_until timestamptz NOT NULL,
    known bigint NOT NULL,
    websockets bigint NOT NULL
);
CREATE UNIQUE INDEX httppubsub_broadcasters_key ON httppubsub_broadcasters (sha256(url));

-- Authorizations that were used, by whom, for as long as they could be used again.
CREATE TABLE httppubsub_spent (
    code bytea PRIMARY KEY,
    spender bigint NOT NULL,
    until timestamptz NOT NULL
);
CREATE INDEX httppubsub_spent_until ON httppubsub_spent (until);
