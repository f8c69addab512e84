//! `etags.json`: the etag of a set, and lists that are no set.

mod recorded;

use httppubsub_proto::digest::Sha512;
use httppubsub_proto::stateless::{SetListsError, decode_set_lists, encode_set_lists};
use httppubsub_proto::subscription::{NotAscending, StrongEtag, StrongEtagHasher, SubscriptionSet};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::wire::Writer;
use recorded::{Fields as _, glob, set_in_hex, unhex, url, vectors};

#[test]
fn every_set_has_the_recorded_etag() {
    let file = vectors("etags.json");
    for case in file.cases("/cases", 15) {
        let set = set_in_hex(case);
        let etag = case.etag("etag");
        assert_eq!(set.etag(&url(case.hex_text("url"))), etag, "{case}");
        assert_eq!(
            StrongEtag(Sha512::of(&case.bytes("document"))),
            etag,
            "{case}"
        );
    }
}

#[test]
fn rows_that_come_one_by_one_have_the_recorded_etag() {
    let file = vectors("etags.json");
    for case in file.cases("/cases", 15) {
        let mut document = StrongEtagHasher::new(&url(case.hex_text("url")));
        for row in case.list("exact") {
            document.exact(
                &row.bytes("topic"),
                row.maybe_hex_text("recovery").as_deref(),
            );
        }
        for row in case.list("globs") {
            document.glob(
                &row.hex_text("glob"),
                row.maybe_hex_text("recovery").as_deref(),
            );
        }
        assert_eq!(document.finish(), case.etag("etag"), "{case}");
    }
}

#[test]
fn entries_in_any_order_have_the_recorded_etag() {
    let file = vectors("etags.json");
    for case in file.cases("/cases", 15) {
        let set = set_in_hex(case);
        let mut entries: Vec<_> = set.iter().map(|(it, to)| (it, to.cloned())).collect();
        entries.reverse();
        let set = SubscriptionSet::from_iter(entries);
        assert_eq!(
            set.etag(&url(case.hex_text("url"))),
            case.etag("etag"),
            "{case}"
        );
    }
}

#[test]
fn every_set_keeps_its_etag_on_the_wire() {
    let file = vectors("etags.json");
    for case in file.cases("/cases", 15) {
        let set = decode_set_lists(&encode_set_lists(&set_in_hex(case))).unwrap();
        assert_eq!(
            set.etag(&url(case.hex_text("url"))),
            case.etag("etag"),
            "{case}"
        );
    }
}

#[test]
fn lists_that_are_no_set_have_no_etag() {
    let file = vectors("etags.json");
    for case in file.cases("/rejected", 6) {
        let bytes = |name: &str| -> Vec<Vec<u8>> {
            case.list(name)
                .iter()
                .map(|it| unhex(it.as_str().unwrap()))
                .collect()
        };
        let (topics, globs) = (bytes("exact"), bytes("globs"));
        let kind = if topics.is_empty() { "glob" } else { "topic" };
        let want = NotAscending { kind, index: 1 };
        let decoded = decode_set_lists(&lists_on_the_wire(&topics, &globs));
        assert_eq!(decoded, Err(SetListsError::NotAscending(want)), "{case}");

        let topics = topics
            .into_iter()
            .map(|it| (Topic::new(it).unwrap(), None))
            .collect();
        let globs = globs
            .into_iter()
            .map(|it| (glob(String::from_utf8(it).unwrap()), None));
        let set = SubscriptionSet::from_ascending(topics, globs.collect());
        assert_eq!(set, Err(want), "{case}");
    }
}

fn lists_on_the_wire(topics: &[Vec<u8>], globs: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Writer::default();
    for list in [topics, globs] {
        out.u32(u32::try_from(list.len()).expect("a short list"));
        for entry in list {
            out.field16(entry).field16(b"");
        }
    }
    out.into_bytes()
}
