//! The published packages among themselves: if this fails, look here before looking at our code.

use httppubsub_interop::Side::Theirs;

use crate::conversation::converse;

for_each_auth!(
    the_published_packages_talk_to_each_other,
    [
        without_authorization = NONE,
        with_tokens = TOKEN,
        with_signatures = HMAC
    ],
    |auth| super::converse(auth, super::Theirs, &[super::Theirs], &[super::Theirs])
);
