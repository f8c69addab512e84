//! Messages larger than anyone holds in memory, and many of them.

use httppubsub_interop::{
    Auth, Body, Message, Rows,
    Side::{self, Ours, Theirs},
    Wants, World, random_file,
};

const MIB: usize = 1024 * 1024;

#[test]
fn a_message_of_64_mib_arrives_whole_behind_our_broadcaster() {
    send_64_mib(Ours);
}

#[test]
fn a_message_of_64_mib_arrives_whole_behind_their_broadcaster() {
    send_64_mib(Theirs);
}

#[test]
fn all_of_500_messages_arrive_behind_our_broadcaster() {
    send_500(Ours, Theirs);
}

#[test]
fn all_of_500_messages_arrive_behind_their_broadcaster() {
    send_500(Theirs, Ours);
}

fn send_64_mib(broadcaster: Side) {
    let world = World::new(Auth::HMAC);
    let broadcaster = world.broadcaster(broadcaster);
    let mut notifiers = [Theirs, Ours].map(|side| world.notifier(&broadcaster, side));
    let rows = Rows {
        exact: &[b"large"],
        ..Rows::default()
    };
    let wants = Wants::new(rows, notifiers.len());
    let subscribers = world.subscribers(&broadcaster, &[Theirs, Ours], &wants);

    for (seed, notifier) in notifiers.iter_mut().enumerate() {
        let path = world.path("large");
        let sha512 = random_file(&path, 64 * MIB, seed as u64 + 1);
        let sent = notifier.accepted(b"large", &Body::File(path));
        assert_eq!(sent.subscribers, 2);
        assert_eq!(sent.sha512, sha512);
        for subscriber in &subscribers {
            let message = subscriber.message();
            assert_eq!(message.bytes, 64 * MIB as u64, "{:?}", subscriber.side);
            assert_eq!(message.sha512, sha512, "{:?}", subscriber.side);
        }
    }
    for subscriber in subscribers {
        subscriber.left();
    }
}

fn send_500(broadcaster: Side, notifier: Side) {
    let world = World::new(Auth::HMAC);
    let broadcaster = world.broadcaster(broadcaster);
    let mut notifier = world.notifier(&broadcaster, notifier);
    let rows = Rows {
        exact: &[b"many/0"],
        globs: &["many/[1-9]"],
        ..Rows::default()
    };
    let subscribers = world.subscribers(&broadcaster, &[Theirs, Ours], &Wants::new(rows, 500));

    let mut expected = Vec::new();
    for number in 0..500 {
        let (topic, body) = (format!("many/{}", number % 10), format!("message {number}"));
        assert_eq!(
            notifier.reach(topic.as_bytes(), body.as_bytes()),
            2,
            "{body}"
        );
        expected.push(Message::new(topic.as_bytes(), body.as_bytes()));
    }
    expected.sort();
    for subscriber in subscribers {
        assert_eq!(subscriber.messages(500), expected, "{:?}", subscriber.side);
        subscriber.left();
    }
}
