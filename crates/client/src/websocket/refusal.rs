//! The search for the interest that a broadcaster refuses which can only close the websocket.

use std::collections::VecDeque;

use httppubsub_proto::session::close_code;
use httppubsub_proto::subscription::Interest;

/// Finds the interest that a broadcaster refuses. None of them can say so: published broadcasters
/// close with 1000, ours with 1008. After such a close with interests in question the next
/// connection is careful, that is, asks for one at a time, so that a second close tells which.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    is_careful: bool,
    /// The interest that was alone in question at the last close, and at how many closes in a row.
    last: Option<(Interest, u32)>,
}

/// A SUBSCRIBE (`true`) or UNSUBSCRIBE that was handed to the websocket and is not confirmed.
pub(crate) type InQuestion = (Interest, bool);

/// The meaning of a close for the interests in question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing.
    None,
    /// One of them may be refused: a careful connection will tell.
    Suspicious,
    /// This one is refused.
    Refused {
        interest: Interest,
        /// `true` if a broadcaster confirmed it before, so that no call waits for it.
        was_confirmed: bool,
    },
}

/// The number of careful connections in a row that must be closed because of an interest that was
/// confirmed before, until it counts as refused: a broadcaster whose database is away closes as
/// well.
const CLOSES_OF_CONFIRMED: u32 = 3;

impl Suspicion {
    /// `true` if one interest at a time is to be asked for, and nothing else meanwhile.
    pub(crate) fn is_careful(&self) -> bool {
        self.is_careful
    }

    /// Everything is confirmed.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Judges the close of an open connection with `code` while these were in question.
    /// `is_new` is `true` for an interest that no broadcaster confirmed yet.
    pub(crate) fn closed(
        &mut self,
        code: Option<u16>,
        in_question: &VecDeque<InQuestion>,
        is_new: impl Fn(&Interest) -> bool,
    ) -> Finding {
        if in_question.is_empty() || !matches!(code, Some(close_code::NORMAL | close_code::POLICY))
        {
            return Finding::None;
        }
        if !std::mem::replace(&mut self.is_careful, true) {
            return Finding::Suspicious;
        }
        let (1, Some((interest, true))) = (in_question.len(), in_question.front()) else {
            return Finding::None;
        };
        // The same interest twice in a row, or the count begins again: closes for other reasons
        // must not add up.
        let closes = match self.last.take() {
            Some((last, closes)) if last == *interest => closes + 1,
            _ => 1,
        };
        let was_confirmed = !is_new(interest);
        if closes >= CLOSES_OF_CONFIRMED || !was_confirmed {
            let interest = interest.clone();
            return Finding::Refused {
                interest,
                was_confirmed,
            };
        }
        self.last = Some((interest.clone(), closes));
        Finding::None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    use httppubsub_proto::topic::Topic;

    fn exact(topic: &'static str) -> Interest {
        Interest::Exact(Topic::new(topic).unwrap())
    }

    fn asked<const N: usize>(topics: [&'static str; N]) -> VecDeque<InQuestion> {
        topics.into_iter().map(|it| (exact(it), true)).collect()
    }

    #[test]
    fn what_was_never_confirmed_is_refused_by_the_second_close_that_it_is_alone_at() {
        let mut suspicion = Suspicion::default();
        let both = asked(["a", "b"]);
        assert_eq!(
            suspicion.closed(Some(1000), &both, |_| true),
            Finding::Suspicious
        );
        assert!(suspicion.is_careful());
        let refused = Finding::Refused {
            interest: exact("b"),
            was_confirmed: false,
        };
        assert_eq!(
            suspicion.closed(Some(1008), &asked(["b"]), |_| true),
            refused
        );
        suspicion.clear();
        assert!(!suspicion.is_careful());
    }

    #[test]
    fn other_closes_and_those_with_nothing_in_question_say_nothing() {
        let mut suspicion = Suspicion::default();
        for (code, topics) in [
            (None, asked(["a"])),
            (Some(1001), asked(["a"])),
            (Some(1012), asked(["a"])),
            (Some(1013), asked(["a"])),
            (Some(1000), VecDeque::new()),
        ] {
            assert_eq!(suspicion.closed(code, &topics, |_| true), Finding::None);
            assert!(!suspicion.is_careful());
        }
        suspicion.closed(Some(1000), &asked(["a"]), |_| true);
        let ended = VecDeque::from([(exact("a"), false)]);
        assert_eq!(
            suspicion.closed(Some(1000), &ended, |_| true),
            Finding::None
        );
    }

    #[test]
    fn what_was_confirmed_before_is_refused_by_three_careful_closes_in_a_row() {
        let mut suspicion = Suspicion::default();
        suspicion.closed(Some(1000), &asked(["a"]), |_| false);
        for topic in ["a", "a", "b", "a", "a"] {
            let finding = suspicion.closed(Some(1000), &asked([topic]), |_| false);
            assert_eq!(finding, Finding::None);
        }
        let finding = suspicion.closed(Some(1000), &asked(["a"]), |_| false);
        let (interest, was_confirmed) = (exact("a"), true);
        let refused = Finding::Refused {
            interest,
            was_confirmed,
        };
        assert_eq!(finding, refused);
    }
}
