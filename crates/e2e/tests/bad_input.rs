//! Whatever arrives at a broadcaster, it answers with the 4xx that the protocol names, serves on,
//! and keeps what it had.

#![allow(clippy::print_stderr, reason = "for who looks into a test that failed")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::thread;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use httppubsub_e2e::{
    Asked, Connection, Deaf, Door, Filler, Home, Random, Response, Server, Subscriber, exact, glob,
    url,
};
use httppubsub_net::Clock;
use httppubsub_net::egress::Egress;
use httppubsub_proto::auth::{Scheme, Secrets};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::stateless::{
    CheckRequest, InterestKind, MissedHead, NotifyHead, ReceiveHead, SetHead, SubscribeRequest,
    UNSUBSCRIBE_IMMEDIATE, UnsubscribeRequest, decode_set_lists, encode_set_lists,
};
use httppubsub_proto::subscription::{StrongEtag, Subscription, SubscriptionSet};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

const IN_MEMORY: &[&str] = &["--db", "memory"];

/// The largest growth of memory that counts as none.
const NO_GROWTH: u64 = 32 * 1024 * 1024;

fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

/// One of the broadcaster's endpoints for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    SubscribeExact,
    SubscribeGlob,
    UnsubscribeExact,
    UnsubscribeGlob,
    Check,
    Set,
    Notify,
    ReceiveForWebsockets,
    MissedForWebsockets,
}

use Endpoint::*;

const ALL: [Endpoint; 9] = [
    SubscribeExact,
    SubscribeGlob,
    UnsubscribeExact,
    UnsubscribeGlob,
    Check,
    Set,
    Notify,
    ReceiveForWebsockets,
    MissedForWebsockets,
];

const MESSAGE: &[u8] = b"a message";

impl Endpoint {
    /// A request that is freshly signed and right in every way.
    fn asked(self, door: &Door) -> Asked {
        let signer = &door.signer;
        // Nobody listens at the subscriber's url, and nobody is notified on its topics.
        let url = url("http://127.0.0.1:9/v1/receive");
        let recovery = Some(self::url("http://127.0.0.1:9/v1/recover"));
        let subscribe = |interest| {
            let (url, recovery) = (url.clone(), recovery.clone());
            signer.subscribe(&Subscription {
                url,
                interest,
                recovery,
            })
        };
        let own = |path: &str| format!("http://{}{path}", door.address);
        match self {
            SubscribeExact => subscribe(exact("bad/exact")),
            SubscribeGlob => subscribe(glob("bad/glob/*")),
            UnsubscribeExact => signer.unsubscribe(&url, &exact("bad/exact")),
            UnsubscribeGlob => signer.unsubscribe(&url, &glob("bad/glob/*")),
            Check => signer.check(&url),
            Set => {
                let url = self::url("http://127.0.0.1:9/v1/set");
                signer.set(&url, &some_set())
            }
            Notify => signer.notify(&topic("nobody/wants/this"), MESSAGE),
            ReceiveForWebsockets => {
                let url = own("/v1/receive_for_websockets");
                signer.receive_for_websockets(&url, &topic("nobody/wants/this"), MESSAGE)
            }
            MissedForWebsockets => {
                let url = own("/v1/missed_for_websockets");
                signer.missed_for_websockets(&url, &topic("nobody/wants/this"))
            }
        }
    }

    /// The statuses that the protocol allows for `body` with an authorization that was made for
    /// `original`.
    fn allowed(self, original: &[u8], body: &[u8], auth: Auth) -> BTreeSet<u16> {
        /// Whether what is signed is what was signed.
        fn same<T: PartialEq>(
            original: &[u8],
            body: &[u8],
            decode: impl Fn(&[u8]) -> Option<T>,
        ) -> Option<bool> {
            let (original, body) = (decode(original), decode(body)?);
            Some(original == Some(body))
        }
        let subscribe = |kind| same(original, body, |it| SubscribeRequest::decode(kind, it).ok());
        let unsubscribe = |kind| {
            same(original, body, |it| {
                UnsubscribeRequest::decode(kind, it).ok()
            })
        };
        let vouched = match self {
            SubscribeExact => subscribe(InterestKind::Exact),
            SubscribeGlob => subscribe(InterestKind::Glob),
            UnsubscribeExact => unsubscribe(InterestKind::Exact),
            UnsubscribeGlob => unsubscribe(InterestKind::Glob),
            Check => same(original, body, |it| CheckRequest::decode(it).ok()),
            Set => same(original, body, |it| {
                SetHead::decode(it).ok().map(|(head, _)| head)
            }),
            Notify => same(original, body, |it| {
                let (head, _) = NotifyHead::decode(it).ok()?;
                // The announced length is not signed.
                Some((head.topic, head.sha512, head.tracing, head.identifier))
            }),
            ReceiveForWebsockets => same(original, body, |it| {
                let (head, _) = ReceiveHead::decode(it).ok()?;
                Some((head.topic, head.tracing, head.identifier))
            }),
            MissedForWebsockets => same(original, body, |it| MissedHead::decode(it).ok()),
        };
        match vouched {
            None => return [400].into(),
            Some(false) if auth == Auth::Signed => return [403].into(),
            Some(_) => {}
        }
        let is_whole = match self {
            Set => {
                let (head, bytes) = SetHead::decode(body).unwrap();
                decode_set_lists(&body[bytes..]).is_ok_and(|set| set.etag(&head.url) == head.etag)
            }
            Notify => {
                let (head, bytes) = NotifyHead::decode(body).unwrap();
                let message = &body[bytes..];
                head.message_bytes == message.len() as u64 && head.sha512 == Sha512::of(message)
            }
            _ => true,
        };
        match self {
            _ if !is_whole => [400].into(),
            // Nobody wants its topic.
            ReceiveForWebsockets => [400].into(),
            SubscribeExact | SubscribeGlob | Set if !urls_of(self, body).all(is_taken) => {
                [400, 403].into()
            }
            SubscribeExact | SubscribeGlob | UnsubscribeExact | UnsubscribeGlob => {
                [200, 409].into()
            }
            _ => [200].into(),
        }
    }
}

/// The urls that deliveries would go to.
fn urls_of(endpoint: Endpoint, body: &[u8]) -> std::vec::IntoIter<SubscriberUrl> {
    let kind = match endpoint {
        SubscribeExact => InterestKind::Exact,
        SubscribeGlob => InterestKind::Glob,
        _ => {
            let (head, bytes) = SetHead::decode(body).unwrap();
            let set = decode_set_lists(&body[bytes..]).unwrap();
            let recoveries = set.iter().filter_map(|(_, recovery)| recovery.cloned());
            let mut urls: Vec<_> = recoveries.collect();
            urls.extend((!set.is_empty()).then_some(head.url));
            return urls.into_iter();
        }
    };
    let request = SubscribeRequest::decode(kind, body).unwrap();
    let urls: Vec<_> = [Some(request.url), request.recovery]
        .into_iter()
        .flatten()
        .collect();
    urls.into_iter()
}

/// Whether a broadcaster on loopback takes this url.
fn is_taken(url: SubscriberUrl) -> bool {
    let endpoint = httppubsub_proto::url::Endpoint::parse(&url);
    endpoint.is_ok_and(|it| Egress::default().judge_url(it.origin()).is_ok())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Auth {
    None,
    Signed,
}

impl Auth {
    fn home(self) -> Home {
        match self {
            Self::None => Home::with(&Secrets::NONE),
            Self::Signed => Home::new(),
        }
    }
}

fn some_set() -> SubscriptionSet {
    let recovery = Some(url("http://127.0.0.1:9/v1/recover"));
    [
        (exact("a"), recovery.clone()),
        (exact("b"), None),
        (glob("c*"), recovery),
        (glob("d?"), None),
    ]
    .into_iter()
    .collect()
}

/// A refusal says why, in words; two endpoints answer as subscribers do.
#[track_caller]
fn explains_itself(response: &Response, what: &str) {
    if response.status >= 400 {
        assert!(!response.body.is_empty(), "{what}: {response:?}");
        let text = std::str::from_utf8(&response.body).unwrap();
        assert!(
            text == "\u{0}\n" || text.trim().len() > 10,
            "{what}: {text:?}"
        );
    }
}

#[track_caller]
fn check(connection: &mut Connection, asked: &Asked, want: &[u16], what: &str) -> Response {
    let response = connection.ask(asked);
    assert!(
        want.contains(&response.status),
        "{what}: {} {}",
        response.status,
        response.text()
    );
    explains_itself(&response, what);
    response
}

#[track_caller]
fn lives(server: &Server) {
    assert_eq!(server.door.get("/healthz").status, 200);
}

#[test]
fn a_body_cut_short_at_any_byte_is_refused_and_the_connection_serves_on() {
    let (home, mut cuts) = (Home::new(), 0);
    let server = home.serve(IN_MEMORY);
    let mut connection = server.door.connect();
    for endpoint in ALL {
        for cut in 0..endpoint.asked(&server.door).body.len() {
            let mut asked = endpoint.asked(&server.door);
            asked.body.truncate(cut);
            check(
                &mut connection,
                &asked,
                &[400],
                &format!("{endpoint:?} cut at {cut}"),
            );
            cuts += 1;
        }
        let asked = endpoint.asked(&server.door);
        let want = if endpoint == ReceiveForWebsockets {
            400
        } else {
            200
        };
        check(
            &mut connection,
            &asked,
            &[want],
            &format!("{endpoint:?} whole"),
        );
    }
    assert!(cuts > 600, "{cuts}");
}

#[test]
fn lengths_counts_and_texts_that_lie_are_refused() {
    let home = Home::new();
    let server = home.serve(IN_MEMORY);
    let signer = &server.door.signer;
    let topic = topic("nobody/wants/this");
    let notify = |message_bytes: u64, digest_of: &[u8], message: &[u8]| {
        let head = signer.notify_head(&topic, Sha512::of(digest_of), message_bytes);
        signer.notify_of(&head, message)
    };
    let whole = MESSAGE.len() as u64;
    let cases = [
        ("whole", notify(whole, MESSAGE, MESSAGE), 200),
        ("empty", notify(0, b"", b""), 200),
        ("longest length", notify(u64::MAX, MESSAGE, MESSAGE), 400),
        ("half of it", notify(1 << 63, MESSAGE, b""), 400),
        (
            "one too many announced",
            notify(whole + 1, MESSAGE, MESSAGE),
            400,
        ),
        (
            "one too few announced",
            notify(whole - 1, MESSAGE, MESSAGE),
            400,
        ),
        ("none announced", notify(0, b"", MESSAGE), 400),
        (
            "digest of another message",
            notify(whole, b"another", MESSAGE),
            400,
        ),
        (
            "a byte behind the message",
            notify(whole, MESSAGE, b"a message."),
            400,
        ),
    ];
    let mut connection = server.door.connect();
    for (what, asked, want) in cases {
        check(&mut connection, &asked, &[want], &format!("NOTIFY: {what}"));
    }

    let url = url("http://127.0.0.1:9/v1/set");
    let lists = encode_set_lists(&some_set());
    let set = |etag: StrongEtag, lists: &[u8]| {
        let head = SetHead {
            tracing: Default::default(),
            url: url.clone(),
            etag,
        };
        signer.set_of(&head, lists)
    };
    let right = some_set().etag(&url);
    let counted = |exacts: u32, globs: u32| {
        let mut lists = exacts.to_be_bytes().to_vec();
        if exacts == 0 {
            lists.extend_from_slice(&globs.to_be_bytes());
        }
        set(right, &lists)
    };
    let entries = |topics: &[&str], globs: &[&str]| {
        let mut lists = Vec::new();
        let mut etag = httppubsub_proto::subscription::StrongEtagHasher::new(&url);
        for (index, list) in [topics, globs].into_iter().enumerate() {
            lists.extend_from_slice(&u32::try_from(list.len()).unwrap().to_be_bytes());
            for entry in list {
                lists.extend_from_slice(&u16::try_from(entry.len()).unwrap().to_be_bytes());
                lists.extend_from_slice(entry.as_bytes());
                lists.extend_from_slice(&[0, 0]);
                match index {
                    0 => etag.exact(entry.as_bytes(), None),
                    _ => etag.glob(entry, None),
                }
            }
        }
        // The etag fits: it is the order that must be refused.
        set(etag.finish(), &lists)
    };
    let mut format_1 = set(right, &lists);
    let format_at = format_1.body.len() - lists.len() - 65;
    format_1.body[format_at] = 1;
    let cases = [
        ("whole", set(right, &lists), 200),
        ("ascending", entries(&["a", "b"], &["a", "b"]), 200),
        ("more topics than there are", counted(u32::MAX, 0), 400),
        ("more globs than there are", counted(0, u32::MAX), 400),
        (
            "another etag",
            set(StrongEtag(Sha512::of(b"")), &lists),
            400,
        ),
        ("another etag format", format_1, 400),
        ("topics not sorted", entries(&["b", "a"], &[]), 400),
        ("a topic twice", entries(&["a", "a"], &[]), 400),
        ("globs not sorted", entries(&[], &["b", "a"]), 400),
        ("a glob twice", entries(&[], &["a", "a"]), 400),
        ("a prefix behind", entries(&["ab", "a"], &[]), 400),
        (
            "bytes behind the lists",
            set(right, &[&lists[..], b"more"].concat()),
            200,
        ),
    ];
    for (what, asked, want) in cases {
        check(&mut connection, &asked, &[want], &format!("SET: {what}"));
    }

    // Field by field: what must be UTF-8 and is not, and lengths beyond the end.
    let field = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    let body = |fields: &[&[u8]]| fields.iter().flat_map(|it| field(it)).collect::<Vec<u8>>();
    let (good, bad) = (&b"http://h/"[..], &b"http://\xff/"[..]);
    let cases = [
        (
            SubscribeExact,
            "url not UTF-8",
            body(&[bad, b"t", good, b""]),
        ),
        (
            SubscribeExact,
            "recovery not UTF-8",
            body(&[good, b"t", bad, b""]),
        ),
        (
            SubscribeGlob,
            "url not UTF-8",
            body(&[bad, b"t", good, b""]),
        ),
        (
            SubscribeGlob,
            "glob not UTF-8",
            body(&[good, b"\xc3\x28", good, b""]),
        ),
        (
            SubscribeGlob,
            "recovery not UTF-8",
            body(&[good, b"t", bad, b""]),
        ),
        (UnsubscribeExact, "url not UTF-8", body(&[bad, b"t", b""])),
        (UnsubscribeGlob, "url not UTF-8", body(&[bad, b"t", b""])),
        (
            UnsubscribeGlob,
            "glob not UTF-8",
            body(&[good, b"\xed\xa0\x80", b""]),
        ),
        (Check, "url not UTF-8", body(&[b"", bad])),
        (
            Set,
            "url not UTF-8",
            [&body(&[b"", bad])[..], &[0; 73]].concat(),
        ),
        (
            SubscribeExact,
            "a length beyond the end",
            b"\xff\xffshort".to_vec(),
        ),
        (
            UnsubscribeExact,
            "a length beyond the end",
            b"\xff\xffshort".to_vec(),
        ),
        (Check, "a length beyond the end", b"\xff\xffshort".to_vec()),
        (Set, "a length beyond the end", b"\xff\xffshort".to_vec()),
        (Notify, "a length beyond the end", b"\xff\xffshort".to_vec()),
        (
            MissedForWebsockets,
            "a length beyond the end",
            b"\xff\xffshort".to_vec(),
        ),
        (
            ReceiveForWebsockets,
            "a length beyond the end",
            b"\xff\xffshort".to_vec(),
        ),
    ];
    for (endpoint, what, body) in cases {
        let asked = endpoint.asked(&server.door).with_body(body);
        check(
            &mut connection,
            &asked,
            &[400],
            &format!("{endpoint:?}: {what}"),
        );
    }
    lives(&server);
}

#[test]
fn bodies_beyond_any_use_are_refused_or_ignored() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory", "--message-bytes-max", "1000"]);
    let door = &server.door;
    let notify = |bytes: usize| door.signer.notify(&topic("t"), &vec![b'm'; bytes]);
    assert_eq!(door.ask(&notify(1_000)).status, 200);
    assert_eq!(door.ask(&notify(1_001)).status, 413);

    let before = server.process.resident_bytes();
    let url = url("http://127.0.0.1:9/");
    let head = SetHead {
        tracing: Default::default(),
        url: url.clone(),
        etag: some_set().etag(&url),
    };
    // Entries enough to keep it reading: one byte more than is taken.
    let lists = Filler::new(64 * 1024 * 1024 + 1, 1);
    let mut connection = door.connect();
    // It is refused by its length, and not read to its end.
    let _ = connection.post_with(&door.signer.set_of(&head, b""), &lists);
    let response = connection.answer().unwrap().unwrap();
    assert_eq!(response.status, 413, "{}", response.text());
    explains_itself(&response, "SET");
    let grown = server.process.resident_bytes_max() - before;
    assert!(
        grown < 64 * 1024 * 1024 * 5 / 2,
        "{grown} bytes more for 64 MiB of lists"
    );

    // What follows the documented body is ignored.
    let ten_megabytes = Filler::new(10_000_000, 2);
    for (endpoint, want) in [(SubscribeExact, 200), (UnsubscribeExact, 200), (Check, 200)] {
        let mut connection = door.connect();
        connection
            .post_with(&endpoint.asked(door), &ten_megabytes)
            .unwrap();
        let response = connection.answer().unwrap().unwrap();
        assert_eq!(response.status, want, "{endpoint:?}: {}", response.text());
    }
    lives(&server);
}

/// F10 and T12.
#[test]
fn a_message_without_room_on_disk_is_refused_before_it_comes_and_others_are_not() {
    const MIB: u64 = 1024 * 1024;
    let home = Home::new();
    let spool = ["--spool-above", "1000000", "--spool-disk-max", "20971520"];
    let server = home.serve(&[&["--db", "memory"][..], &spool].concat());
    let door = &server.door;
    let subscriber = Subscriber::start(&door.signer);
    door.subscribe(&subscriber.url("/a"), exact("t"), None);
    let announce_60_mib = |door: &Door| {
        let signer = &door.signer;
        let head = signer.notify_head(&topic("t"), Sha512::of(MESSAGE), 60 * MIB);
        let asked = signer.notify_of(&head, b"");
        let body_bytes = asked.body.len() as u64 + 60 * MIB;
        let mut connection = door.connect();
        connection.announce(&asked, body_bytes).unwrap();
        connection.send(&asked.body).unwrap();
        let refused = connection.answer().unwrap().unwrap();
        assert_eq!(refused.status, 507, "{}", refused.text());
        explains_itself(&refused, "NOTIFY");
        refused.text()
    };
    for _ in 0..3 {
        let told = announce_60_mib(door);
        assert!(told.contains("temporary files may have 20971520 together"));
    }
    for _ in 0..100 {
        assert_eq!(door.notify("t", MESSAGE), 1);
    }
    // All that one address may have of it is there for the next.
    for seed in 0..3 {
        assert_eq!(door.notify_filler("t", &Filler::new(15 * MIB, seed)), 1);
    }
    let home = Home::new();
    let reserved = home.serve(&["--db", "memory", "--spool-free-min", "1000000000000000"]);
    let door = &reserved.door;
    assert!(announce_60_mib(door).contains("have to stay free"));
    assert_eq!(door.notify("t", MESSAGE), 0);
}

#[test]
fn authorizations_of_odd_shapes_are_forbidden_and_no_error() {
    let home = Home::new();
    let server = home.serve(IN_MEMORY);
    let now = Clock::system().now().since_unix().as_secs();
    let code = BASE64_STANDARD.encode([7; 64]);
    let signed = |timestamp: &str, nonce: &str, code: &str| {
        format!("X-HMAC {timestamp}:{nonce}:{code}").into_bytes()
    };
    let at = now.to_string();
    let values = [
        ("empty", Vec::new()),
        ("another scheme", b"Bearer token".to_vec()),
        ("the scheme alone", b"X-HMAC".to_vec()),
        ("lower case", format!("x-hmac {at}:n:{code}").into_bytes()),
        ("no parts", b"X-HMAC abc".to_vec()),
        ("two parts", format!("X-HMAC {at}:{code}").into_bytes()),
        ("not ASCII", "X-HMAC \u{e9}".as_bytes().to_vec()),
        ("not UTF-8", b"X-HMAC \xff\xfe:n:c".to_vec()),
        (
            "a nonce that is not UTF-8",
            [b"X-HMAC ", at.as_bytes(), b":\xff:", code.as_bytes()].concat(),
        ),
        ("a nonce of 255 bytes", signed(&at, &"n".repeat(255), &code)),
        ("a nonce of 300 bytes", signed(&at, &"n".repeat(300), &code)),
        (
            "a nonce of 30,000 bytes",
            signed(&at, &"n".repeat(30_000), &code),
        ),
        ("400 digits", signed(&"9".repeat(400), "n", &code)),
        ("13 digits", signed(&"9".repeat(13), "n", &code)),
        ("12 digits", signed(&"9".repeat(12), "n", &code)),
        ("a timestamp of 0", signed("0", "n", &code)),
        ("a negative timestamp", signed("-1", "n", &code)),
        (
            "a timestamp with a sign",
            signed(&format!("+{at}"), "n", &code),
        ),
        (
            "a timestamp with a line",
            signed(&format!("{}_{}", &at[..5], &at[5..]), "n", &code),
        ),
        ("other digits", signed("\u{661}\u{662}", "n", &code)),
        ("no timestamp", signed("", "n", &code)),
        ("no nonce", signed(&at, "", &code)),
        ("a code that is none", signed(&at, "n", "!!!")),
        ("a short code", signed(&at, "n", &code[..84])),
        (
            "a long code",
            signed(&at, "n", &BASE64_STANDARD.encode([7; 65])),
        ),
        (
            "the other alphabet",
            signed(&at, "n", &BASE64_URL_SAFE.encode([255; 64])),
        ),
        ("surplus padding", signed(&at, "n", &format!("{code}=="))),
        ("no fitting code", signed(&at, "n", &code)),
    ];
    let mut connection = server.door.connect();
    for endpoint in ALL {
        // Nobody wants its topic, which only those learn who may know.
        let vouched = if endpoint == ReceiveForWebsockets {
            400
        } else {
            200
        };
        for (what, value) in &values {
            let asked = endpoint.asked(&server.door).with_authorization(Some(value));
            check(
                &mut connection,
                &asked,
                &[403],
                &format!("{endpoint:?}: {what}"),
            );
        }
        let asked = endpoint.asked(&server.door).with_authorization(None);
        check(
            &mut connection,
            &asked,
            &[401],
            &format!("{endpoint:?}: missing"),
        );
        let asked = endpoint.asked(&server.door);
        check(
            &mut connection,
            &asked,
            &[vouched],
            &format!("{endpoint:?}: right"),
        );
    }
}

#[test]
fn tokens_are_compared_as_bytes() {
    let token = || Scheme::Token("t\u{f6}ken".to_owned());
    let home = Home::with(&Secrets {
        to_broadcaster: token(),
        to_subscriber: token(),
    });
    let server = home.serve(IN_MEMORY);
    let mut connection = server.door.connect();
    let cases: [(&str, Option<&[u8]>, u16); 7] = [
        ("missing", None, 401),
        ("empty", Some(b""), 403),
        ("not ASCII", Some(b"Bearer \xff\xff"), 403),
        ("a prefix", Some(b"Bearer t"), 403),
        ("lower case", Some("bearer t\u{f6}ken".as_bytes()), 403),
        ("two blanks", Some("Bearer  t\u{f6}ken".as_bytes()), 403),
        ("right", Some("Bearer t\u{f6}ken".as_bytes()), 200),
    ];
    for (what, value, want) in cases {
        let asked = Check.asked(&server.door).with_authorization(value);
        check(&mut connection, &asked, &[want], what);
    }
}

#[test]
fn a_signature_counts_once_and_only_for_what_it_was_made_for() {
    let home = Home::new();
    let server = home.serve(IN_MEMORY);
    let mut connection = server.door.connect();
    for endpoint in ALL.into_iter().filter(|it| *it != ReceiveForWebsockets) {
        let asked = endpoint.asked(&server.door);
        check(&mut connection, &asked, &[200], &format!("{endpoint:?}"));
        let again = check(
            &mut connection,
            &asked,
            &[403],
            &format!("{endpoint:?} replayed"),
        );
        assert!(again.text().contains("used before"), "{}", again.text());
        // Another spelling of the same code is the same code.
        let value = asked.authorization.clone().unwrap();
        let unpadded = value.strip_suffix(b"==").unwrap();
        let respelled = asked.with_authorization(Some(unpadded));
        check(
            &mut connection,
            &respelled,
            &[403],
            &format!("{endpoint:?} respelled"),
        );
    }
    // What was signed for one endpoint is shown at each other.
    for (signed_for, shown_at) in ALL.iter().flat_map(|a| ALL.iter().map(move |b| (*a, *b))) {
        if signed_for == shown_at || shown_at == ReceiveForWebsockets {
            continue;
        }
        let signed = signed_for.asked(&server.door).authorization;
        let asked = shown_at
            .asked(&server.door)
            .with_authorization(signed.as_deref());
        let what = format!("{signed_for:?} shown at {shown_at:?}");
        check(&mut connection, &asked, &[403], &what);
    }
    // The same kind, another topic.
    let signer = &server.door.signer;
    let other = signer.notify(&topic("another"), MESSAGE).authorization;
    let asked = signer.notify(&topic("nobody/wants/this"), MESSAGE);
    let asked = asked.with_authorization(other.as_deref());
    check(&mut connection, &asked, &[403], "NOTIFY on another topic");
}

#[test]
fn every_flipped_bit_of_what_is_signed_is_noticed() {
    let home = Home::new();
    let server = home.serve(IN_MEMORY);
    let mut connection = server.door.connect();
    for endpoint in [
        SubscribeGlob,
        UnsubscribeExact,
        Check,
        Set,
        Notify,
        MissedForWebsockets,
    ] {
        let bits = endpoint.asked(&server.door).body.len() * 8;
        for bit in 0..bits {
            let asked = endpoint.asked(&server.door);
            let mut body = asked.body.clone();
            body[bit / 8] ^= 1 << (bit % 8);
            let what = format!("{endpoint:?}, bit {bit}");
            check(&mut connection, &asked.with_body(body), &[400, 403], &what);
        }
    }
}

/// F15.
#[test]
fn a_clock_that_is_off_is_told_ours_and_costs_no_subscription() {
    let home = Home::new();
    let server = home.serve(&[]);
    let door = &server.door;
    for skew in [-130, 130, -100_000_000, 100_000_000] {
        let off = Door {
            signer: door.signer.with_skew(skew),
            ..door.clone()
        };
        for endpoint in ALL.into_iter().filter(|it| *it != ReceiveForWebsockets) {
            let response = off.ask(&endpoint.asked(&off));
            assert_eq!(response.status, 403, "{endpoint:?} {skew} s off");
            let text = response.text();
            let said = text.rsplit("the clock here says ").next().unwrap().trim();
            let said: u64 = said
                .parse()
                .unwrap_or_else(|_| panic!("no clock in {text:?}"));
            let now = Clock::system().now().since_unix().as_secs();
            assert!(now.abs_diff(said) <= 60, "{said}");
        }
    }
    for skew in [-110, 110] {
        let off = Door {
            signer: door.signer.with_skew(skew),
            ..door.clone()
        };
        assert_eq!(
            off.ask(&Check.asked(&off)).status,
            200,
            "{skew} s off is within two minutes"
        );
    }

    // A subscriber whose confirmations come from another time loses one delivery.
    let subscriber = Subscriber::start(&door.signer.with_skew(-130));
    let (receive, recover) = (subscriber.url("/receive"), subscriber.recovery("/"));
    door.subscribe(&receive, exact("clock"), Some(&recover));
    for round in 1..=3 {
        assert_eq!(door.notify("clock", MESSAGE), 0);
        assert_eq!(subscriber.await_deliveries(&receive, round).len(), round);
        let rows = home.rows();
        assert_eq!(rows.len(), 1, "the subscription stays");
        assert!(rows[0].is_owed_a_notice);
    }
}

/// Urls to which nothing can be posted.
fn unusable_urls() -> Vec<String> {
    let control = (1..=32).map(char::from).collect::<String>();
    [
        "",
        " ",
        "not a url",
        "/v1/receive",
        "file:///etc/passwd",
        "unix:/run/docker.sock",
        "ftp://127.0.0.1/",
        "javascript:alert(1)",
        "http:",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://user:s3cret@127.0.0.1:9/",
        "http://127.0.0.1:9/\r\nX-Injected: yes",
        "http://127.0.0.1:9/a b",
        "http://127.0.0.1:9/\u{0}",
        &format!("http://127.0.0.1:9/{control}"),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// T1.
#[test]
fn unusable_urls_are_refused_and_can_be_removed_if_others_stored_them() {
    let home = Home::new();
    let server = home.serve(&[]);
    let door = &server.door;
    let signer = &door.signer;
    let good = url("http://127.0.0.1:9/");
    let set_with = |recovery: &SubscriberUrl| -> SubscriptionSet {
        [(exact("odd"), Some(recovery.clone()))]
            .into_iter()
            .collect()
    };
    let mut connection = door.connect();
    for odd in unusable_urls() {
        let odd = url(&odd);
        let subscribe = |url: &SubscriberUrl, recovery: &SubscriberUrl| {
            let (url, recovery) = (url.clone(), Some(recovery.clone()));
            let interest = exact("odd");
            signer.subscribe(&Subscription {
                url,
                interest,
                recovery,
            })
        };
        let mut requests = vec![subscribe(&odd, &good), signer.set(&odd, &set_with(&good))];
        // An empty recovery url means that none is wanted.
        if !odd.as_str().is_empty() {
            requests.push(subscribe(&good, &odd));
            requests.push(signer.set(&good, &set_with(&odd)));
        }
        for asked in requests {
            let what = format!("{} {:?}", asked.path, odd.as_str());
            let response = check(&mut connection, &asked, &[400], &what);
            let text = response.text();
            assert!(text.starts_with("nothing can be posted to the "), "{text}");
            assert!(
                odd.as_str().len() < 2 || !text.contains(odd.as_str()),
                "{text}"
            );
        }
        assert_eq!(home.rows(), []);
        // What others have stored can be looked at and removed.
        home.store(odd.as_str(), exact("odd"), None);
        let empty = SubscriptionSet::default();
        for (asked, status) in [
            (signer.check(&odd), 200),
            (signer.unsubscribe(&odd, &exact("odd")), 200),
            (signer.unsubscribe(&odd, &exact("odd")), 409),
            (signer.set(&odd, &empty), 200),
        ] {
            let what = format!("{} {:?}", asked.path, odd.as_str());
            check(&mut connection, &asked, &[status], &what);
        }
    }
    assert_eq!(home.rows(), []);
}

#[test]
fn odd_urls_that_are_stored_fail_alone() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let door = &server.door.clone();
    let closed = Deaf::closed();
    let mut urls = unusable_urls();
    urls.extend([
        "http:///v1/receive".to_owned(),
        "http://127.0.0.1:0/".to_owned(),
        "http://\u{fc}\u{f1}\u{ee}.invalid/\u{1f600}".to_owned(),
        "https://127.0.0.1:9/".to_owned(),
        closed.url("/v1/receive#fragment"),
        closed.url("/%zz?q#"),
        format!("http://127.0.0.1:9/{}", "x".repeat(65_000)),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ]);
    let good = Subscriber::start(&door.signer);
    door.subscribe(&good.url("/receive"), exact("odd"), None);
    for odd in &urls {
        let recovery = Some(odd.as_str()).filter(|it| !it.is_empty());
        home.store(odd, exact("odd"), recovery);
    }
    for round in 1..=3 {
        assert_eq!(door.notify("odd", MESSAGE), 1, "only the good one confirms");
        assert_eq!(
            good.await_deliveries(&good.url("/receive"), round).len(),
            round
        );
    }
    let rows = home.rows();
    assert_eq!(rows.len(), urls.len() + 1, "all are kept");
    for row in rows {
        let wants_notice = row.url != good.url("/receive") && !row.url.is_empty();
        assert_eq!(row.is_owed_a_notice, wants_notice, "{row:?}");
    }
    // The notices fail as well, and the sweep goes on.
    server.process.log_line("a notice was not taken");
    assert_eq!(door.get("/readyz").status, 200);
    server.process.terminate();
    server.process.end_well();
    assert!(
        !server.process.log().contains("X-Injected"),
        "no url is logged whole"
    );
    assert!(
        !server.process.log().contains("s3cret"),
        "no secret is logged"
    );
}

#[test]
fn broken_framing_is_refused_or_closed_and_harms_nobody() {
    let home = Home::new();
    let server = home.serve(IN_MEMORY);
    let cases: &[(&str, &[u8])] = &[
        ("no HTTP", b"hello\r\n\r\n"),
        (
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        ),
        ("HTTP/0.9", b"GET /healthz\r\n\r\n"),
        ("HTTP/3.0", b"GET /healthz HTTP/3.0\r\n\r\n"),
        (
            "a blank in a name",
            b"GET /healthz HTTP/1.1\r\nA B: c\r\n\r\n",
        ),
        (
            "a zero in a value",
            b"GET /healthz HTTP/1.1\r\nA: \x00\r\n\r\n",
        ),
        (
            "a negative length",
            b"POST /v1/notify HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        ),
        (
            "a length that is none",
            b"POST /v1/notify HTTP/1.1\r\nContent-Length: ten\r\n\r\n",
        ),
        (
            "a length of 2^64",
            b"POST /v1/notify HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
        ),
        (
            "two lengths",
            b"POST /v1/notify HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ),
        (
            "a coding that is none",
            b"POST /v1/notify HTTP/1.1\r\nTransfer-Encoding: zzz\r\n\r\n",
        ),
        (
            "a chunk that is none",
            b"POST /v1/notify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ),
        (
            "a chunk of 2^64",
            b"POST /v1/notify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
        ),
        (
            "a chunk cut short",
            b"POST /v1/notify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        ),
        (
            "a body cut short",
            b"POST /v1/notify HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
        ),
        ("a head cut short", b"POST /v1/notify HTTP/1.1\r\nContent-"),
    ];
    for (what, bytes) in cases {
        let mut connection = server.door.connect();
        connection.send(bytes).unwrap();
        connection.finish().unwrap();
        // Or it is closed without a word, since no request was made.
        if let Ok(Some(response)) = connection.answer() {
            assert_eq!(response.status / 100, 4, "{what}: {response:?}");
        }
        lives(&server);
    }
    let mut long_head = b"GET /healthz HTTP/1.1\r\nA: ".to_vec();
    long_head.resize(300 * 1024, b'a');
    let mut connection = server.door.connect();
    // It may be closed before all of it is sent.
    let _ = connection.send(&long_head);
    if let Ok(Some(response)) = connection.answer() {
        assert_eq!(response.status, 431, "{response:?}");
    }
    lives(&server);
}

#[test]
fn a_declared_length_costs_no_memory() {
    let home = Home::new();
    let server = home.serve(IN_MEMORY);
    let door = &server.door;
    // Memory that any use takes is not counted.
    for endpoint in ALL {
        door.ask(&endpoint.asked(door));
    }
    let before = server.process.resident_bytes();
    let mut connections = Vec::new();
    for _ in 0..50 {
        let head = door
            .signer
            .notify_head(&topic("t"), Sha512::of(MESSAGE), 1 << 63);
        let mut asked = door.signer.notify_of(&head, b"");
        asked.headers = "Expect: 100-continue\r\n".to_owned();
        let mut connection = door.connect();
        let body_bytes = asked.body.len() as u64 + (1 << 63);
        connection.announce(&asked, body_bytes).unwrap();
        let proceed = connection.answer().unwrap().unwrap();
        assert_eq!(proceed.status, 100, "its handler waits for the body");
        connection.send(&asked.body).unwrap();
        connection.send(b"the beginning").unwrap();
        connections.push(connection);
    }
    for mut connection in connections {
        connection.finish().unwrap();
        if let Some(response) = connection.answer().unwrap() {
            // No disk has room for it.
            assert_eq!(response.status, 507, "{}", response.text());
        }
    }
    // Lists that claim four billion entries, and fields that claim more than there is.
    let url = url("http://127.0.0.1:9/");
    let mut connection = door.connect();
    for _ in 0..50 {
        let etag = some_set().etag(&url);
        let head = SetHead {
            tracing: Default::default(),
            url: url.clone(),
            etag,
        };
        check(
            &mut connection,
            &door.signer.set_of(&head, &[255; 4]),
            &[400],
            "SET",
        );
    }
    let grown = server.process.resident_bytes_max().saturating_sub(before);
    assert!(grown < NO_GROWTH, "{grown} bytes");
    eprintln!("declared lengths: {} KiB more", grown / 1024);
}

#[test]
fn the_longest_globs_and_topics_hold_up_nobody() {
    let home = Home::new();
    // Matching gives way to all other work, also to that of other processes.
    let flags = ["--glob-bytes-max", "65535", "--notify-timeout", "150"];
    let server = home.serve(&[IN_MEMORY, &flags].concat());
    let door = &server.door;
    let subscriber = Subscriber::start(&door.signer);
    let short = subscriber.url("/short");
    door.subscribe(&short, exact("short"), None);
    let globs = [
        format!("*{}", "a".repeat(500)).repeat(64),
        "*".repeat(64),
        format!("*{}", "?".repeat(500)).repeat(64),
        "?".repeat(65_535),
        format!("*{}", "[ab]".repeat(200)).repeat(64),
        format!("{}b", format!("*{}", "a".repeat(500)).repeat(64)),
        format!("*{}*", "a".repeat(65_533)),
        format!("[{}]*", "a-z".repeat(20_000)),
        "[".repeat(65_535),
        "a".repeat(65_535),
    ];
    let topic = "a".repeat(65_535);
    for (index, text) in globs.iter().enumerate() {
        door.subscribe(&subscriber.url(&format!("/{index}")), glob(text), None);
    }
    let want = globs
        .iter()
        .filter(|text| glob(text).covers(&self::topic(&topic)))
        .count();
    assert_eq!(want, 8);

    let long = thread::spawn({
        let (door, topic) = (door.clone(), topic.clone());
        move || {
            (0..5)
                .map(|_| door.notify(&topic, MESSAGE))
                .collect::<Vec<_>>()
        }
    });
    // Ordinary notifications go on all the while, and each gets its answer.
    let mut ordinary = 0;
    while !long.is_finished() || ordinary < 20 {
        // Two of the globs match it as well.
        assert_eq!(door.notify("short", MESSAGE), 3);
        ordinary += 1;
    }
    assert_eq!(long.join().unwrap(), [8; 5]);
    assert_eq!(subscriber.deliveries_to(&short).len(), ordinary);
    assert!(
        subscriber
            .deliveries()
            .iter()
            .all(|delivery| delivery.is_genuine)
    );
    eprintln!("{ordinary} ordinary notifications beside 5 of the longest");
}

/// Changes a body in one to three places, in ways that parsers are known to dislike.
fn mutate(body: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(body.len() + 1);
        match random.below(8) {
            0 => body.truncate(at),
            1 => body.extend_from_slice(&random.clone().bytes(at % 70 + 1)),
            2 => {
                let count = random.below(9);
                let inserted = random.bytes(count);
                body.splice(at..at, inserted);
            }
            3 => {
                let end = (at + random.below(9)).min(body.len());
                body.drain(at..end);
            }
            4 => {
                let value = *random.pick(&[&[0; 8][..], &[255; 8], &[127], &[0, 255], &[255, 255]]);
                let end = (at + value.len()).min(body.len());
                body.splice(at..end, value.iter().copied());
            }
            5 if at < body.len() => body[at] ^= 1 << random.below(8),
            6 => {
                let part = body[..at].to_vec();
                body.extend_from_slice(&part);
            }
            _ => {
                let other = random.below(body.len() + 1);
                let by = at.min(other);
                body.rotate_left(by);
            }
        }
    }
}

fn mutated_requests_are_answered_as_the_protocol_says(auth: Auth, each: u64) {
    let home = auth.home();
    let server = home.serve(IN_MEMORY);
    let mut connection = server.door.connect();
    let mut statuses = std::collections::BTreeMap::new();
    for (number, endpoint) in ALL.into_iter().enumerate() {
        for seed in 0..each {
            let mut random = Random::new(seed * 16 + number as u64);
            let asked = endpoint.asked(&server.door);
            let mut body = asked.body.clone();
            mutate(&mut body, &mut random);
            let allowed = endpoint.allowed(&asked.body, &body, auth);
            let response = connection.ask(&asked.with_body(body.clone()));
            let what = format!(
                "{endpoint:?}, seed {seed}, body {}",
                httppubsub_e2e::hex(&body)
            );
            assert!(
                allowed.contains(&response.status),
                "{} {} is none of {allowed:?}: {what}",
                response.status,
                response.text()
            );
            explains_itself(&response, &what);
            *statuses.entry(response.status).or_insert(0_u32) += 1;
        }
        // The connection still serves what is right.
        let asked = endpoint.asked(&server.door);
        let want = if endpoint == ReceiveForWebsockets {
            400
        } else {
            200
        };
        check(
            &mut connection,
            &asked,
            &[want, 409],
            &format!("{endpoint:?} as it should be"),
        );
    }
    eprintln!("{auth:?}: {statuses:?}");
}

#[test]
fn mutated_signed_requests_are_answered_as_the_protocol_says() {
    mutated_requests_are_answered_as_the_protocol_says(Auth::Signed, 2_500);
}

#[test]
fn mutated_requests_without_authorization_are_answered_as_the_protocol_says() {
    mutated_requests_are_answered_as_the_protocol_says(Auth::None, 2_500);
}

#[test]
fn mutated_authorizations_are_forbidden() {
    let home = Home::new();
    let server = home.serve(IN_MEMORY);
    let mut connection = server.door.connect();
    for (number, endpoint) in ALL.into_iter().enumerate() {
        if endpoint == ReceiveForWebsockets {
            continue;
        }
        for seed in 0..200 {
            let mut random = Random::new(seed * 16 + number as u64);
            let asked = endpoint.asked(&server.door);
            let original = asked.authorization.clone().unwrap();
            let mut value = original.clone();
            mutate(&mut value, &mut random);
            // What a header cannot carry is the framing's to refuse, and blanks around it are not
            // part of it.
            value.retain(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 127));
            if is_same_signature(&original, value.trim_ascii()) {
                continue;
            }
            let asked = asked.with_authorization(Some(&value));
            let what = format!("{endpoint:?}, {:?}", String::from_utf8_lossy(&value));
            check(&mut connection, &asked, &[403], &what);
        }
    }
}

/// Padding may be left out.
fn is_same_signature(original: &[u8], value: &[u8]) -> bool {
    original == value
        || original.strip_suffix(b"==") == Some(value)
        || original.strip_suffix(b"=") == Some(value)
}

/// Rows that a crash left behind are cleaned up by this answer (`docs/protocol/stateless.md` §8).
#[test]
fn a_delivery_for_websockets_that_nobody_wants_ends_its_row() {
    let home = Home::new();
    let server = home.serve(IN_MEMORY);
    let asked = ReceiveForWebsockets.asked(&server.door);
    for asked in [&asked, &asked] {
        let response = server.door.ask(asked);
        assert_eq!(
            (response.status, &response.body[..]),
            (400, &UNSUBSCRIBE_IMMEDIATE[..])
        );
    }
}
