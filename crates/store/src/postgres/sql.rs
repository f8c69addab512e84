//! Every statement that is made to the database; the schema and its functions are in
//! `schema_*.sql`.

/// Changes nothing, and needs a server that takes writes.
pub(super) const PROBE: &str = "UPDATE httppubsub_log SET trimmed_to = trimmed_to WHERE false";

/// Forgets the oldest entries of the change log: all but `$1`, and none that an open transaction
/// may precede. One call after the other; what one has forgotten the next need not. A mark in the
/// future is that of another server, whose dump this is: none of its transactions is open here.
pub(super) const TRIM_CHANGES: &str = "\
     WITH log AS MATERIALIZED (SELECT ctid, trimmed_to, mark_seq, mark_xid \
     FROM httppubsub_log FOR UPDATE SKIP LOCKED), \
     state AS MATERIALIZED (SELECT coalesce(max(seq), 0) AS newest, count(*) AS kept \
     FROM httppubsub_changes), \
     marked AS MATERIALIZED (SELECT log.ctid, log.trimmed_to, log.mark_seq, log.mark_xid, \
     pg_snapshot_xmin(pg_current_snapshot()) >= mark_xid \
     OR mark_xid > pg_snapshot_xmax(pg_current_snapshot()) AS is_over FROM log), \
     cut AS MATERIALIZED (SELECT marked.ctid, greatest(trimmed_to, CASE WHEN is_over \
     THEN least(mark_seq, state.newest - $1) ELSE 0 END) AS trimmed_to, \
     CASE WHEN is_over THEN state.newest ELSE mark_seq END AS mark_seq, \
     CASE WHEN is_over THEN pg_current_xact_id() ELSE mark_xid END AS mark_xid \
     FROM marked, state WHERE state.kept > $1 + $1 / 4), \
     set AS (UPDATE httppubsub_log SET trimmed_to = cut.trimmed_to, \
     mark_seq = cut.mark_seq, mark_xid = cut.mark_xid FROM cut \
     WHERE httppubsub_log.ctid = cut.ctid) \
     DELETE FROM httppubsub_changes USING cut WHERE seq <= cut.trimmed_to";

/// Forgets codes whose authorizations have expired.
pub(super) const TRIM_SPENT: &str = "DELETE FROM httppubsub_spent WHERE until < clock_timestamp()";

/// Wakes all that listen for changes.
pub(super) const WAKE_OTHERS: &str = "SELECT pg_notify('httppubsub_changes', '')";

/// Makes the subscriptions of the url `$1` those of the arrays `$2` to `$4`.
pub(super) const SET: &str = "SELECT added, removed, updated FROM httppubsub_set($1, $2, $3, $4)";

/// Owes a notice of the topic `$4`, due at `$5`, to one subscription.
pub(super) const OWE: &str = "\
     INSERT INTO httppubsub_notices AS it (subscription, topic, due, attempts) \
     SELECT id, CASE kind WHEN 0 THEN interest ELSE $4 END, $5, 0 \
     FROM httppubsub_subscriptions \
     WHERE sha256(url) = sha256($1) AND kind = $2 AND sha256(interest) = sha256($3) \
     AND recovery IS NOT NULL \
     ON CONFLICT (subscription) DO UPDATE SET topic = excluded.topic, attempts = 0, \
     due = CASE WHEN it.lock IS NULL THEN least(it.due, excluded.due) \
     ELSE excluded.due END, lock = NULL, held_until = NULL";

/// Holds up to `$2` notices that are due, under the lock `$3`.
pub(super) const CLAIM: &str = "\
     WITH due AS MATERIALIZED (SELECT subscription FROM httppubsub_notices \
     WHERE due <= $5 AND (held_until IS NULL OR held_until <= $1) \
     ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED) \
     UPDATE httppubsub_notices it SET lock = $3, held_until = $4 \
     FROM due, httppubsub_subscriptions of \
     WHERE it.subscription = due.subscription AND of.id = it.subscription \
     RETURNING it.due, it.attempts, it.topic, of.url, of.kind, of.interest, of.recovery, \
     of.id";

/// Ends the notice of the subscription with the number `$1`, also if it is held.
pub(super) const DROP_NOTICE: &str = "DELETE FROM httppubsub_notices WHERE subscription = $1";

/// Ends a notice that is held under the lock `$4`.
pub(super) const SETTLE_DONE: &str = "\
     DELETE FROM httppubsub_notices it USING httppubsub_subscriptions of \
     WHERE of.id = it.subscription AND sha256(of.url) = sha256($1) \
     AND of.kind = $2 AND sha256(of.interest) = sha256($3) AND it.lock = $4";

/// Puts off a notice that is held under the lock `$4`.
pub(super) const SETTLE_RETRY: &str = "\
     UPDATE httppubsub_notices it SET lock = NULL, held_until = NULL, \
     attempts = $5, due = $6 FROM httppubsub_subscriptions of \
     WHERE of.id = it.subscription AND sha256(of.url) = sha256($1) \
     AND of.kind = $2 AND sha256(of.interest) = sha256($3) AND it.lock = $4";

/// The earliest due time of a free notice, and the earliest end of a hold.
pub(super) const NEXT_NOTICE: &str = "\
     SELECT (SELECT min(due)::double precision FROM httppubsub_notices \
     WHERE held_until IS NULL), (SELECT min(greatest(due, held_until)) \
     FROM httppubsub_notices WHERE held_until IS NOT NULL)";

/// Notes a topic in flight until `$3`.
pub(super) const RECORD_IN_FLIGHT: &str = "\
     INSERT INTO httppubsub_in_flight (broadcaster, topic, until) \
     VALUES ($1, $2, $3) ON CONFLICT (sha256(broadcaster), sha256(topic)) \
     DO UPDATE SET until = excluded.until";

/// Forgets topics in flight of one broadcaster.
pub(super) const FORGET_IN_FLIGHT: &str = "\
     DELETE FROM httppubsub_in_flight USING unnest($2::bytea[]) AS ended (topic) \
     WHERE sha256(broadcaster) = sha256($1) \
     AND sha256(httppubsub_in_flight.topic) = sha256(ended.topic)";

/// The topics in flight of one broadcaster, and those of all that have expired by `$2`.
pub(super) const IN_FLIGHT: &str = "\
     SELECT broadcaster, topic, until FROM httppubsub_in_flight \
     WHERE sha256(broadcaster) = sha256($1) OR until <= $2 LIMIT $3";

/// Renews the lease of a broadcaster and reads all of them.
pub(super) const HEARTBEAT: &str = "\
     WITH me AS (INSERT INTO httppubsub_broadcasters AS it \
     (url, instance, version, alive_until, known, websockets, identity) \
     VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5, $6, $7) \
     ON CONFLICT (sha256(url)) DO UPDATE SET instance = excluded.instance, \
     identity = excluded.identity, \
     version = excluded.version, seen_at = clock_timestamp(), \
     alive_until = excluded.alive_until, known = excluded.known, \
     websockets = excluded.websockets, started_at = CASE \
     WHEN it.instance = excluded.instance THEN it.started_at \
     ELSE excluded.started_at END \
     WHERE it.identity IS NOT DISTINCT FROM excluded.identity \
     OR it.alive_until <= clock_timestamp() RETURNING xmax = 0 AS is_new) \
     SELECT extract(epoch FROM clock_timestamp())::double precision, it.url, it.version, \
     extract(epoch FROM it.started_at)::double precision, \
     extract(epoch FROM it.seen_at)::double precision, \
     extract(epoch FROM it.alive_until)::double precision, it.known, it.websockets, \
     it.instance, (SELECT is_new FROM me) \
     FROM (SELECT 1) one LEFT JOIN httppubsub_broadcasters it ON true ORDER BY it.url";

/// All broadcasters, and counts of what the tables hold.
pub(super) const CENSUS: &str = "\
     SELECT extract(epoch FROM clock_timestamp())::double precision, it.url, \
     it.version, extract(epoch FROM it.started_at)::double precision, \
     extract(epoch FROM it.seen_at)::double precision, \
     extract(epoch FROM it.alive_until)::double precision, it.known, it.websockets, \
     (SELECT coalesce(max(seq), 0) FROM httppubsub_changes), \
     (SELECT count(*) FROM httppubsub_subscriptions), \
     (SELECT count(*) FROM httppubsub_notices), \
     (SELECT count(*) FROM httppubsub_notices WHERE held_until IS NOT NULL) \
     FROM (SELECT 1) one LEFT JOIN httppubsub_broadcasters it ON true ORDER BY it.url";

/// Removes a broadcaster that stops, by its own identity.
pub(super) const LEAVE: &str = "\
     DELETE FROM httppubsub_broadcasters \
     WHERE sha256(url) = sha256($1) AND identity = $2";

/// Removes a broadcaster whose lease has ended, with its subscriptions.
pub(super) const FORGET: &str = "\
     WITH gone AS (DELETE FROM httppubsub_broadcasters \
     WHERE sha256(url) = sha256($1) AND alive_until < clock_timestamp() RETURNING url), \
     theirs AS (DELETE FROM httppubsub_subscriptions it USING gone \
     WHERE sha256(it.url) = sha256(gone.url)) SELECT count(*) FROM gone";

/// Takes back a code that this store has spent.
pub(super) const RELEASE: &str = "DELETE FROM httppubsub_spent WHERE code = $1 AND spender = $2";

/// Adds subscriptions, in one order, so that two that add the same wait for each other once.
pub(super) const ADD: &str = "\
     INSERT INTO httppubsub_subscriptions (url, kind, interest, recovery) \
     SELECT url, kind, interest, nullif(recovery, '') \
     FROM unnest($1::bytea[], $2::smallint[], $3::bytea[], $4::bytea[]) \
     AS new (url, kind, interest, recovery) ORDER BY sha256(url), kind, sha256(interest) \
     ON CONFLICT (sha256(url), kind, sha256(interest)) DO NOTHING \
     RETURNING url, kind, interest";

/// Removes subscriptions, in one order.
pub(super) const REMOVE: &str = "\
     WITH old AS MATERIALIZED (SELECT it.id FROM unnest($1::bytea[], $2::smallint[], \
     $3::bytea[], $4::bytea[]) AS old (url, kind, interest, recovery) \
     JOIN httppubsub_subscriptions it ON sha256(it.url) = sha256(old.url) \
     AND it.kind = old.kind AND sha256(it.interest) = sha256(old.interest) \
     ORDER BY it.id FOR UPDATE OF it) \
     DELETE FROM httppubsub_subscriptions it USING old WHERE it.id = old.id \
     RETURNING it.url, it.kind, it.interest";

/// Spends codes. Does not wait for the disk: a crash of the server may undo the last moments.
pub(super) const SPEND: &str = "\
     WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)) \
     INSERT INTO httppubsub_spent AS it (code, spender, until) \
     SELECT code, $2, clock_timestamp() + make_interval(secs => seconds) \
     FROM quick, unnest($1::bytea[], $3::double precision[]) AS new (code, seconds) \
     ON CONFLICT (code) DO UPDATE SET until = greatest(it.until, excluded.until) \
     WHERE it.spender = excluded.spender RETURNING code";

/// The subscriptions of one url in the order of etags.
pub(super) const OF_URL: &str = "\
     SELECT kind, interest, recovery FROM httppubsub_subscriptions \
     WHERE sha256(url) = sha256($1) ORDER BY kind, interest";

/// The transaction that made the change `$1`.
pub(super) const XID_OF: &str = "SELECT xid::text::bigint FROM httppubsub_changes WHERE seq = $1";

/// A transaction number of its own, and the number up to which changes were forgotten.
pub(super) const WATERMARK: &str = "\
     SELECT pg_current_xact_id()::text::bigint, trimmed_to FROM httppubsub_log";

/// Counts before all is read.
pub(super) const COUNTS: &str = "\
     SELECT (SELECT count(*) FROM httppubsub_subscriptions WHERE kind = 0), \
     (SELECT count(*) FROM httppubsub_subscriptions WHERE kind = 1), \
     (SELECT trimmed_to FROM httppubsub_log)";

/// All subscriptions, in no order.
pub(super) const ALL: &str = "\
     SELECT kind, url, interest, recovery, id FROM httppubsub_subscriptions";

/// The changes after `$1` that are kept, by number and transaction.
pub(super) const KEPT: &str = "\
     SELECT seq, xid::text::bigint FROM httppubsub_changes \
     WHERE seq > $1 ORDER BY seq";

/// There is a row also if nothing changed, as it says whether the server takes writes: one that
/// does not any longer may not know what was acknowledged.
pub(super) const NEWER: &str = "\
     SELECT it.seq, it.xid::text::bigint, it.added, it.kind, it.url, it.interest, \
     it.recovery, at.is_read_only \
     FROM (SELECT current_setting('transaction_read_only')::bool AS is_read_only) at \
     LEFT JOIN httppubsub_changes it ON it.seq > $1 ORDER BY it.seq";

/// All in one snapshot: what is not there when nobody is left who could have it never comes. `xmax`
/// is larger than the number of any transaction that has begun.
pub(super) const NEWER_AND_LATE: &str = "\
     SELECT it.seq, it.xid::text::bigint, it.added, it.kind, it.url, \
     it.interest, it.recovery, at.is_read_only, at.xmin, at.xmax, at.trimmed_to \
     FROM (SELECT current_setting('transaction_read_only')::bool AS is_read_only, \
     pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin, \
     pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax, \
     (SELECT trimmed_to FROM httppubsub_log) AS trimmed_to) at \
     LEFT JOIN httppubsub_changes it ON it.seq > $1 OR it.seq = ANY($2) ORDER BY it.seq";
