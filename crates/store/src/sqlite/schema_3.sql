-- Ours: at which url each broadcaster receives for its websockets. Its identity stays when its address
-- changes, and what is kept of the address before is then known to be its own.
CREATE TABLE httppubsub_broadcasters (
    identity BLOB PRIMARY KEY,
    url TEXT NOT NULL
) WITHOUT ROWID;
