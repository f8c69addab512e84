-- Tells broadcasters apart that claim the same url, also after they were started again. Those of the
-- version before have none.
ALTER TABLE httppubsub_broadcasters ADD COLUMN identity bytea NULL;
