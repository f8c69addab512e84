-- Ours: notifications on these topics may be on their way from this broadcaster, known by its url,
-- until then (seconds since the epoch). What is left of a broadcaster that was killed was missed.
CREATE TABLE httppubsub_in_flight (
    url TEXT NOT NULL,
    topic BLOB NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (url, topic)
) WITHOUT ROWID;
CREATE INDEX httppubsub_in_flight_until ON httppubsub_in_flight (until);
