//! A broadcaster inside somebody else's app works as it does on its own.

use httppubsub_broadcaster::Config;
use httppubsub_e2e::{InProcess, Subscriber, exact, glob, url};
use httppubsub_net::inbound::ServeConfig;

#[path = "../../httppubsub/examples/mounted.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a program of its own")]
mod mounted;

#[test]
fn everything_works_through_the_prefix_and_the_apps_own_routes_stay() {
    let config = Config::default();
    let server = InProcess::mounted(config, ServeConfig::default(), "/pubsub", mounted::app);
    let door = &server.door;
    let subscriber = Subscriber::start(&door.signer);
    let receive = subscriber.url("/receive");
    door.subscribe(&receive, exact("a"), None);
    door.subscribe(&receive, glob("b*"), None);
    assert_eq!(door.notify("a", b"one"), 1);
    assert_eq!(door.notify("bcd", b"two"), 1);
    let messages: Vec<_> = subscriber
        .deliveries()
        .iter()
        .map(|it| it.message())
        .collect();
    assert_eq!(messages, [b"one", b"two"]);
    let set = [(exact("c"), None)].into_iter().collect();
    door.set(&receive, &set);
    assert_eq!(door.etag(&receive), set.etag(&url(&receive)));
    assert_eq!(door.get("/healthz").status, 200);
    assert_eq!(door.get("/v1/notify").status, 405);
    assert_eq!(door.get("/v1/nothing").status, 404);

    let mut bare = door.connect();
    assert_eq!(bare.get("/").text(), "an app of its own\n");
    assert_eq!(
        bare.get("/healthz").status,
        404,
        "the prefix is the broadcaster's only place"
    );
    assert_eq!(bare.get("/v1/notify").status, 404);
}
