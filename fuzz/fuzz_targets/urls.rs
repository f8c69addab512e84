//! Urls of subscribers: an endpoint can be put into a request, and is the same wherever its parts
//! are put together again.
#![no_main]

use httppubsub_proto::url::{ClientUrls, Endpoint, SubscriberUrl};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(url) = SubscriberUrl::new(text) else {
        assert!(text.len() > 65_535);
        return;
    };
    let shown = format!("{url} {url:?}");
    assert!(!shown.contains(|c: char| c.is_control()), "{shown:?}");
    check_client_urls(text);

    let bare = url.without_fragment();
    assert!(text.starts_with(bare) && !bare.contains('#'));
    let endpoint = match Endpoint::parse(&url) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    assert_eq!(Endpoint::parse_str(bare).as_ref(), Ok(&endpoint));

    let target = endpoint.path_and_query();
    assert!(target.starts_with('/'), "{target:?}");
    assert!(
        target.bytes().all(|byte| byte.is_ascii_graphic()),
        "{target:?}"
    );
    assert!(!endpoint.host_header().is_empty());
    assert!(
        endpoint
            .host_header()
            .bytes()
            .all(|byte| byte.is_ascii_graphic())
    );
    http::HeaderValue::from_str(endpoint.host_header()).expect("a Host header");
    if target.len() < 65_535 {
        let parsed: http::Uri = target.parse().expect("a request target");
        assert_eq!(parsed.path_and_query().map(|it| it.as_str()), Some(target));
    }

    let again = format!("{}{target}", endpoint.origin());
    assert_eq!(
        Endpoint::parse_str(&again).as_ref(),
        Ok(&endpoint),
        "{again}"
    );
});

fn check_client_urls(host: &str) {
    let Ok(urls) = ClientUrls::of_host(host) else {
        assert!(host.len() > 65_535 - "/v1/receive".len());
        return;
    };
    let (before, fragment) = match host.split_once('#') {
        Some((before, after)) => (before, format!("#{after}")),
        None => (host, String::new()),
    };
    assert_eq!(
        urls.receive.as_str(),
        format!("{before}/v1/receive{fragment}")
    );
    assert_eq!(
        urls.recovery.as_str(),
        format!("{before}/v1/recover{fragment}")
    );
    assert_eq!(
        urls.receive.without_fragment(),
        format!("{before}/v1/receive")
    );
}
