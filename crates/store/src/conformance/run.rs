//! The runner of all cases.

use std::sync::Arc;

use crate::conformance::{feed, in_flight, notices, subscriptions};
use crate::contract::Store;

/// Runs every case against a store of its own, which `make` makes empty and unwatched. Panics
/// where one does not keep a promise of [`Store`]. Needs a tokio runtime.
///
/// ```
/// use std::sync::Arc;
/// use httppubsub_store::{MemoryStore, Store, conformance};
///
/// let runtime = tokio::runtime::Runtime::new().unwrap();
/// let make = async || Arc::new(MemoryStore::new()) as Arc<dyn Store>;
/// runtime.block_on(conformance::run(make));
/// ```
pub async fn run(make: impl AsyncFn() -> Arc<dyn Store>) {
    macro_rules! cases {
        ($($contract:ident::$case:ident,)*) => {$(
            tracing::info!(case = stringify!($case));
            $contract::$case(make().await).await;
        )*};
    }
    cases! {
        feed::a_watcher_is_told_what_there_is,
        feed::a_watcher_is_told_of_each_change_in_order_before_the_call_returns,
        feed::what_changes_nothing_is_not_told,
        feed::catching_up_tells_nothing_twice,
        subscriptions::subscribing_again_changes_nothing,
        subscriptions::a_topic_and_a_glob_of_the_same_bytes_are_two_interests,
        subscriptions::urls_are_compared_byte_for_byte,
        subscriptions::fields_hold_all_that_the_wire_can_say,
        subscriptions::an_empty_recovery_url_is_none,
        subscriptions::of_many_who_subscribe_at_once_one_adds,
        subscriptions::unsubscribing_removes_that_one_only,
        subscriptions::the_etag_of_an_unknown_url_is_that_of_no_subscriptions,
        subscriptions::the_etag_is_of_the_rows_in_the_order_of_their_bytes,
        subscriptions::the_etag_changes_with_the_recovery_url,
        subscriptions::a_set_leaves_exactly_what_it_lists,
        subscriptions::a_set_leaves_other_urls_alone,
        subscriptions::a_set_repeated_changes_nothing,
        subscriptions::a_set_keeps_the_notices_of_what_stays,
        subscriptions::a_set_without_a_recovery_url_ends_the_notice,
        subscriptions::a_large_set_is_applied_whole,
        notices::a_notice_is_due_from_its_second_on,
        notices::a_notice_says_what_was_missed_and_where_to_say_it,
        notices::a_notice_needs_a_subscription_with_a_recovery_url,
        notices::notices_are_claimed_earliest_first_up_to_the_limit,
        notices::a_held_notice_is_not_claimed_again_before_the_lease_has_passed,
        notices::a_later_miss_replaces_the_notice,
        notices::a_notice_that_is_done_is_owed_no_more,
        notices::a_notice_that_is_retried_counts_its_attempts,
        notices::a_settlement_by_who_does_not_hold_the_notice_does_nothing,
        notices::a_notice_ends_with_its_subscription,
        notices::missed_never_removes_a_subscription,
        in_flight::what_is_in_flight_is_found_by_its_broadcaster_and_later_by_anybody,
        notices::the_next_notice_is_the_earliest_that_can_be_claimed,
    }
}
