//! How messages arrive and leave: compressed or not, long and short.

use httppubsub_client::{ClientConfig, PresetDictionary};
use httppubsub_net::body::{DecompressLimits, Payload, Spool, SpoolConfig, Zstd};
use httppubsub_net::random_bytes;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::stateful::BodyHead;

use crate::script::{Asked, Door, Peer, Seen, exact, meanwhile, soon, start, subscribed, text};

fn spool() -> Spool {
    Spool::new(SpoolConfig::default())
}

async fn compressed(zstd: &Zstd, plain: &[u8]) -> Payload {
    let plain = Payload::from_bytes(plain.to_vec());
    zstd.compress(&plain, &spool()).await.unwrap()
}

async fn decompressed(zstd: &Zstd, wire: Vec<u8>, bytes: usize) -> Vec<u8> {
    let (wire, limits) = (Payload::from_bytes(wire), DecompressLimits::default());
    let spool = spool();
    let plain = zstd.decompress(&wire, bytes as u64, &limits, &spool);
    plain.await.unwrap().to_bytes().await.unwrap().to_vec()
}

/// The compressor of the next notification, whose plain body is known; it is acknowledged.
async fn compressor_of(peer: &mut Peer, plain: &[u8], zstd: Option<&Zstd>) -> u64 {
    let notified = peer.notified().await;
    assert_eq!(notified.head.decompressed_length, plain.len() as u64);
    assert_eq!(notified.head.compressed_sha512, Sha512::of(&notified.wire));
    let wire = notified.wire.clone();
    let got = match zstd {
        Some(zstd) => decompressed(zstd, wire, plain.len()).await,
        None => wire,
    };
    assert_eq!(got, plain);
    let compressor = notified.head.compressor;
    peer.acknowledge(notified, plain, 1).await;
    compressor
}

#[tokio::test]
async fn every_compressor_is_used_both_ways_from_its_announcement_to_its_end() {
    let preset = b"a dictionary that both ends know".repeat(20);
    let trained = b"a dictionary of this connection".repeat(20);
    let door = Door::open().await;
    let client = door
        .client_with(|options| {
            options.presets.push(PresetDictionary {
                id: 2,
                dictionary: preset.clone().into(),
            });
            options.initial_dict = 2;
        })
        .await;
    let mut peer = door.peer().await;
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("t")]).await);
    assert_eq!(seen.next().await, "!");
    let plain = b"a dictionary of this connection that both ends know".repeat(10);
    let as_text = String::from_utf8(plain.clone()).unwrap();
    let notify = || {
        let (client, plain) = (client.clone(), plain.clone());
        meanwhile(async move { client.notify("t", plain).await.unwrap().subscribers })
    };
    let notifying = notify();
    assert_eq!(compressor_of(&mut peer, &plain, None).await, 0);
    assert_eq!(soon(notifying).await.unwrap(), 1);
    let dictionaries = [(1, None), (2, Some(preset)), (65_536, Some(trained))];
    let mut compressors = Vec::new();
    for (id, dictionary) in dictionaries {
        let zstd = peer.enable(id, 100, dictionary.map(Into::into)).await;
        let wire = compressed(&zstd, &plain).await;
        assert!(wire.len() < plain.len() as u64);
        peer.deliver_wire("t", id.into(), plain.len() as u64, wire)
            .await;
        peer.delivered().await;
        assert_eq!(seen.next().await, as_text);
        // The newest is used.
        let notifying = notify();
        let used = compressor_of(&mut peer, &plain, Some(&zstd)).await;
        assert_eq!(used, u64::from(id));
        assert_eq!(soon(notifying).await.unwrap(), 1);
        compressors.push(zstd);
    }
    peer.disable(65_536).await;
    peer.deliver("t", "none of them is meant for this").await;
    peer.delivered().await;
    seen.next().await;
    let notifying = notify();
    assert_eq!(
        compressor_of(&mut peer, &plain, Some(&compressors[1])).await,
        2
    );
    assert_eq!(soon(notifying).await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_sent_again_is_compressed_as_the_new_connection_says() {
    let door = Door::open().await;
    let client = start(door.config().retry_ambiguous(true), |_| {}).await;
    let plain = b"again and ".repeat(100);
    let mut peer = door.peer().await;
    let zstd = peer.enable(1, 100, None).await;
    // So that the announcement has arrived.
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("t")]).await);
    assert_eq!(seen.next().await, "!");
    let notifying = meanwhile({
        let (client, plain) = (client.clone(), plain.clone());
        async move { client.notify("t", plain).await.unwrap().subscribers }
    });
    let notified = peer.notified().await;
    assert_eq!(notified.head.compressor, 1);
    let identifier = notified.identifier;
    assert_eq!(decompressed(&zstd, notified.wire, plain.len()).await, plain);
    drop(peer);
    let mut peer = door.peer().await;
    peer.confirm_each(["+t"]).await;
    let notified = peer.notified().await;
    assert_eq!(notified.identifier, identifier);
    assert_eq!(notified.head.compressor, 0);
    assert_eq!(notified.wire, plain);
    peer.acknowledge(notified, &plain, 2).await;
    assert_eq!(soon(notifying).await.unwrap(), 2);
}

#[tokio::test]
async fn what_compresses_well_is_compressed_however_well() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut peer = door.peer().await;
    let zstd = peer.enable(1, 100, None).await;
    let _subscription = subscribed(&client, &mut peer, [exact("t")]).await;
    let plain = vec![0; 9 * 1024 * 1024];
    let notifying = meanwhile({
        let (client, plain) = (client.clone(), plain.clone());
        async move { client.notify("t", plain).await.unwrap().subscribers }
    });
    assert_eq!(compressor_of(&mut peer, &plain, Some(&zstd)).await, 1);
    assert_eq!(soon(notifying).await.unwrap(), 1);
}

#[tokio::test]
async fn messages_are_yielded_in_the_order_they_came_in() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut peer = door.peer().await;
    let subscription = subscribed(&client, &mut peer, [exact("t")]).await;
    let zstd = peer.enable(1, 1, None).await;
    // It takes far longer to decompress this than to read what follows.
    let long = vec![b'x'; 4 * 1024 * 1024];
    let wire = compressed(&zstd, &long).await;
    peer.deliver_wire("t", 1, long.len() as u64, wire).await;
    for short in ["1", "2", "3"] {
        peer.deliver("t", short).await;
    }
    for _ in 0..4 {
        peer.delivered().await;
    }
    // What was acknowledged is yielded, also if the connection is lost.
    drop(peer);
    let mut subscription = subscription;
    let mut yielded = Vec::new();
    for _ in 0..4 {
        let message = soon(subscription.next()).await.unwrap();
        yielded.push(text(&message).await);
    }
    assert!(yielded[0].as_bytes() == long);
    assert_eq!(yielded[1..], ["1", "2", "3"]);
}

#[tokio::test]
async fn a_message_larger_than_memory_goes_through_a_file() {
    let door = Door::open().await;
    let config = ClientConfig::builder([door.url()]).spool({
        let mut spool = SpoolConfig::default();
        spool.memory_each_max = 100_000;
        spool.memory_total_max = 1_000_000;
        spool
    });
    let client = start(config, |_| {}).await;
    let mut peer = door.peer().await;
    let mut subscription = subscribed(&client, &mut peer, [exact("t")]).await;
    let block = random_bytes::<4_096>();
    let body: Vec<u8> = block.iter().copied().cycle().take(64 << 20).collect();
    let sha512 = Sha512::of(&body);
    peer.deliver("t", body).await;
    peer.delivered().await;
    let message = soon(subscription.next()).await.unwrap();
    assert!(message.payload.in_memory().is_none());
    assert_eq!(message.payload.len(), 64 << 20);
    assert_eq!(Sha512::of(&message.bytes().await.unwrap()), sha512);
}

#[tokio::test]
async fn poison_that_finds_no_room_here_is_a_gap_on_a_connection_that_goes_on() {
    let door = Door::open().await;
    let config = door.config().spool({
        let mut spool = SpoolConfig::default();
        spool.folder = "/nowhere/at/all".into();
        spool.memory_each_max = 1_000;
        spool
    });
    let client = start(config, |_| {}).await;
    let mut peer = door.peer().await;
    let mut seen = Seen::by(subscribed(&client, &mut peer, [exact("t")]).await);
    assert_eq!(seen.next().await, "!");
    peer.deliver("t", vec![0; 100_000]).await;
    peer.delivered().await;
    peer.deliver("t", "after").await;
    peer.delivered().await;
    assert_eq!(seen.next().await, "?");
    assert_eq!(seen.next().await, "after");
}

/// What the client makes of a message that is not what its head says.
async fn ends_with(head: impl FnOnce(&Payload) -> BodyHead, limits: DecompressLimits) -> String {
    let door = Door::open().await;
    let client = door
        .client_with(|options| options.decompress = limits)
        .await;
    let mut peer = door.peer().await;
    let _subscription = subscribed(&client, &mut peer, [exact("t")]).await;
    let zstd = peer.enable(1, 1, None).await;
    let wire = compressed(&zstd, &[b'x'; 100_000]).await;
    peer.deliver_as("t", head(&wire), wire).await;
    let mut came = String::new();
    loop {
        match peer.next().await {
            Asked::Delivered => came.push_str("acknowledged, "),
            Asked::Closed(code) => return format!("{came}closed with {}", code.unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

fn honest(wire: &Payload) -> BodyHead {
    BodyHead {
        compressor: 1,
        compressed_length: wire.len(),
        decompressed_length: 100_000,
        compressed_sha512: *wire.sha512(),
    }
}

#[tokio::test]
async fn a_message_that_is_not_what_its_head_says_ends_the_connection() {
    let limits = DecompressLimits::default();
    let other_digest = |wire: &Payload| BodyHead {
        compressed_sha512: Sha512::of(b"something else"),
        ..honest(wire)
    };
    assert_eq!(ends_with(other_digest, limits).await, "closed with 1002");
    let acknowledged = "acknowledged, closed with 1002";
    let longer = |wire: &Payload| BodyHead {
        decompressed_length: 100_001,
        ..honest(wire)
    };
    assert_eq!(ends_with(longer, limits).await, acknowledged);
    let shorter = |wire: &Payload| BodyHead {
        decompressed_length: 99_999,
        ..honest(wire)
    };
    assert_eq!(ends_with(shorter, limits).await, acknowledged);
}

#[tokio::test]
async fn what_is_not_wanted_any_more_is_taken_and_dropped() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut peer = door.peer().await;
    let subscription = subscribed(&client, &mut peer, [exact("a"), exact("b")]).await;
    let removing = meanwhile({
        let interests = subscription.interests();
        async move { interests.remove(&exact("a")).await }
    });
    let mut seen = Seen::by(subscription);
    assert_eq!(seen.next().await, "!");
    let (name, ticket) = peer.interest().await;
    assert_eq!(name, "-a");
    peer.deliver("a", "unwanted").await;
    peer.delivered().await;
    peer.confirm(ticket).await;
    soon(removing).await.unwrap().unwrap();
    peer.deliver("b", "wanted").await;
    assert_eq!(seen.next().await, "wanted");
}

#[tokio::test]
async fn a_subscription_that_is_full_is_told_what_it_costs() {
    let door = Door::open().await;
    let config = ClientConfig::builder([door.url()]).queue_max(2);
    let client = start(config, |_| {}).await;
    let mut peer = door.peer().await;
    let slow = subscribed(&client, &mut peer, [exact("t")]).await;
    let mut quick = Seen::by(soon(client.subscribe_exact("t")).await.unwrap());
    assert_eq!(quick.next().await, "!");
    for message in ["1", "2", "3", "4"] {
        peer.deliver("t", message).await;
        peer.delivered().await;
        assert_eq!(quick.next().await, message);
    }
    let mut slow = Seen::by(slow);
    for want in ["!", "1", "2", "?"] {
        assert_eq!(slow.next().await, want);
    }
}
