//! `tracing.json`: the tracing that published broadcasters send with the answer to NOTIFY.

mod recorded;

use std::time::Duration;

use httppubsub_proto::stateless::NotifyTrace;
use httppubsub_proto::time::Now;
use httppubsub_proto::wire::Reader;
use recorded::{Fields as _, vectors};

#[test]
fn every_recorded_tracing_has_the_recorded_entries() {
    let file = vectors("tracing.json");
    for case in file.cases("/cases", 5) {
        let names = NotifyTrace::entry_names(&case.bytes("tracing")).unwrap();
        let want: Vec<&str> = case
            .list("entries")
            .iter()
            .map(|it| it.text("name"))
            .collect();
        assert!(!want.is_empty());
        assert_eq!(names, want, "{case}");
    }
}

#[test]
fn ours_is_the_recorded_one_without_what_comes_before_its_last_entry() {
    let file = vectors("tracing.json");
    for case in file.cases("/cases", 5) {
        let recorded = case.bytes("tracing");
        let last = case.list("entries").last().unwrap();
        assert_eq!(
            (last.text("name"), last.text("extra_json")),
            ("no_more_subscribers", "{}")
        );
        let ours = |since_epoch| {
            let at = Now::from_unix(since_epoch);
            NotifyTrace {
                received: at,
                answered: at,
            }
            .encode()
        };
        let nanoseconds = case.number("response_sent_at_ns");
        assert_eq!(
            nanoseconds,
            case.number::<u64>("request_received_at_ns"),
            "{case}"
        );
        // The recorded nanoseconds were rounded on their way through a float; the entry's time
        // is the clock's.
        let times = &ours(Duration::from_nanos(nanoseconds))[36..];
        let ours = ours(Duration::from_secs_f64(
            last["occurred_at"].as_f64().unwrap(),
        ));
        let ours = [&ours[..36], times].concat();
        assert_eq!(ours[0], case.number::<u8>("truncated"), "{case}");
        let (cut_off_and_count, entry) = ours.split_at(3);
        assert_eq!(cut_off_and_count, [0, 0, 1]);
        assert!(recorded.ends_with(entry), "{case}");
    }
}

#[test]
fn every_prefix_of_a_recorded_tracing_is_cut_short() {
    let file = vectors("tracing.json");
    for case in file.cases("/cases", 5) {
        let recorded = case.bytes("tracing");
        for end in 0..recorded.len() {
            let error = NotifyTrace::entry_names(&recorded[..end]).unwrap_err();
            assert!(error.is_short(), "{end} bytes of {case}: {error}");
        }
    }
}

#[test]
fn the_recorded_times_are_where_ours_are() {
    let file = vectors("tracing.json");
    for case in file.cases("/cases", 5) {
        let recorded = case.bytes("tracing");
        let mut tail = Reader::new(&recorded[recorded.len() - 24..]);
        let entry_at = f64::from_bits(tail.u64("entry time").unwrap());
        let last = case.list("entries").last().unwrap();
        assert_eq!(Some(entry_at), last["occurred_at"].as_f64(), "{case}");
        assert_eq!(
            tail.u64("received"),
            Ok(case.number("request_received_at_ns")),
            "{case}"
        );
        assert_eq!(
            tail.u64("sent"),
            Ok(case.number("response_sent_at_ns")),
            "{case}"
        );
    }
}
