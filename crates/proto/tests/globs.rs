//! `globs.json`: 300 pairs and whether they match.

mod recorded;

use httppubsub_proto::subscription::Interest;
use recorded::{Fields as _, glob, vectors};

#[test]
fn every_pair_matches_as_expected() {
    let file = vectors("globs.json");
    let mut matching = 0;
    for case in file.cases("/cases", 300) {
        let (glob, topic) = (glob(case.hex_text("pattern")), case.topic("topic"));
        let want = case.flag("expected");
        assert_eq!(glob.matches(&topic), want, "{glob} on {topic}");
        assert_eq!(Interest::Glob(glob).covers(&topic), want, "{topic}");
        matching += usize::from(want);
    }
    assert_eq!(matching, 171);
}

#[test]
fn what_matches_has_the_literal_ends_of_its_pattern() {
    let file = vectors("globs.json");
    for case in file
        .cases("/cases", 300)
        .iter()
        .filter(|case| case.flag("expected"))
    {
        let (glob, topic) = (glob(case.hex_text("pattern")), case.topic("topic"));
        let topic = topic.as_str().expect("only UTF-8 matches a glob");
        assert!(
            topic.starts_with(glob.literal_prefix()),
            "{glob} on {topic:?}"
        );
        assert!(
            topic.ends_with(glob.literal_suffix()),
            "{glob} on {topic:?}"
        );
    }
}
