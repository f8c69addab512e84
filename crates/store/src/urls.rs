//! Urls that many rows have in common.

use std::collections::HashMap;
use std::sync::Arc;

use httppubsub_proto::url::{SubscriberUrl, UrlTooLong};

/// Makes urls of which equal ones share their memory.
///
///
/// A url has a row for each topic, so a reload of a million rows may have a few hundred urls. Made
/// for one reload or one answer and dropped with it: the urls live on in what was read.
#[derive(Default)]
pub(crate) struct Urls(HashMap<Arc<str>, SubscriberUrl>);

impl Urls {
    /// The url `text`, byte for byte as it stands. An error if it is longer than a message can
    /// carry.
    pub(crate) fn get(&mut self, text: &str) -> Result<SubscriberUrl, UrlTooLong> {
        if let Some(url) = self.0.get(text) {
            return Ok(url.clone());
        }
        // The key and the url share one allocation.
        let shared: Arc<str> = text.into();
        let url = SubscriberUrl::new(shared.clone())?;
        self.0.insert(shared, url.clone());
        Ok(url)
    }
}
