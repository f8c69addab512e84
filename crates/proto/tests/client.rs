//! `client.json`: which tracing published clients survive, and how long a client waits.

mod recorded;

use std::time::Duration;

use httppubsub_proto::backoff::before_pass;
use httppubsub_proto::stateless::NotifyTrace;
use httppubsub_proto::time::Now;
use recorded::{Fields as _, vectors};

#[test]
fn published_clients_survive_a_tracing_with_an_entry_and_no_other() {
    let file = vectors("client.json");
    for case in file.cases("/notify_response_tracing/cases", 5) {
        let names = NotifyTrace::entry_names(&case.bytes("tracing"));
        let survives = names.is_ok_and(|names| !names.is_empty());
        assert_eq!(survives, case.text("published_client") == "ok", "{case}");
    }
}

#[test]
fn published_clients_survive_ours() {
    for (received, answered) in [(0, 0), (1_800_000_000, 1_800_000_030), (0, u64::MAX)] {
        let at = |seconds| Now::from_unix(Duration::from_secs(seconds));
        let trace = NotifyTrace {
            received: at(received),
            answered: at(answered),
        };
        let names = NotifyTrace::entry_names(&trace.encode()).unwrap();
        assert_eq!(names, ["no_more_subscribers"]);
    }
}

#[test]
fn ours_is_the_recorded_tracing_with_one_entry() {
    let file = vectors("client.json");
    let one_entry = &file.cases("/notify_response_tracing/cases", 5)[0];
    assert_eq!(one_entry.text("case"), "one entry");
    let recorded = one_entry.bytes("tracing");
    let ours = |milliseconds| {
        let at = Now::from_unix(Duration::from_millis(milliseconds));
        NotifyTrace {
            received: at,
            answered: at,
        }
        .encode()
    };
    // The recorded times disagree: the entry's has a fraction, the two at the end have none.
    let end = recorded.len() - 16;
    assert_eq!(ours(1_800_000_000_250)[..end], recorded[..end]);
    assert_eq!(ours(1_800_000_000_000)[end..], recorded[end..]);
}

#[test]
fn every_recorded_wait_is_ours_before_that_pass() {
    let file = vectors("client.json");
    let mut waits = 0;
    for case in file.cases("/outcomes/cases", 184) {
        waits += check_waits(case["expected"].list("waits"));
    }
    assert_eq!(
        check_waits(file.cases("/order/waits_between_rounds_with_random_half", 2)),
        2
    );
    assert!(waits > 50, "{waits}");
}

/// Compares the waits before the second and every later pass, and counts them.
#[track_caller]
fn check_waits(waits: &[serde_json::Value]) -> usize {
    for (pass, wait) in (1..).zip(waits) {
        let want = Duration::from_secs_f64(wait.as_f64().expect("a wait in seconds"));
        assert_eq!(before_pass(pass, 0.5), want, "pass {pass}");
    }
    waits.len()
}
