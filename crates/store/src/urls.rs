//! Urls that many rows have in common.

use std::collections::HashMap;
use std::sync::Arc;

use httppubsub_proto::url::{SubscriberUrl, UrlTooLong};

/// Makes urls of which equal ones share their memory.
#[derive(Default)]
pub(crate) struct Urls(HashMap<Arc<str>, SubscriberUrl>);

impl Urls {
    pub(crate) fn get(&mut self, text: &str) -> Result<SubscriberUrl, UrlTooLong> {
        if let Some(url) = self.0.get(text) {
            return Ok(url.clone());
        }
        let shared: Arc<str> = text.into();
        let url = SubscriberUrl::new(shared.clone())?;
        self.0.insert(shared, url.clone());
        Ok(url)
    }
}
