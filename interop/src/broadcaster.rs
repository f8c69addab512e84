//! A broadcaster of either side.

use httppubsub_e2e::{Door, Process};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::paths::MISSED_FOR_WEBSOCKETS;
use httppubsub_proto::topic::Topic;

use crate::programs::Side;

/// A running broadcaster.
#[derive(Debug)]
pub struct Broadcaster {
    pub(crate) side: Side,
    /// Its address, without a path.
    pub url: String,
    pub(crate) process: Process,
}

impl Broadcaster {
    /// Stops it in good order and waits until it has gone.
    #[track_caller]
    pub fn stop(mut self) {
        match self.side {
            Side::Ours => self.process.terminate(),
            Side::Theirs => self.process.close_input(),
        }
        self.process.end_well();
    }

    /// Kills it: it gets no chance to do anything.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Plays another broadcaster that could not deliver something about `topic` to the websockets
    /// of this one, which checks no authorization.
    #[track_caller]
    pub fn missed_for_websockets(&self, topic: &str) {
        let address = self.url.strip_prefix("http://");
        let address = address.and_then(|it| it.parse().ok());
        let door = Door {
            address: address.expect("broadcasters of this kit have an address"),
            prefix: String::new(),
            signer: (&Secrets::NONE).into(),
        };
        let topic = Topic::new(topic).expect("it is short");
        let url = format!("{}{MISSED_FOR_WEBSOCKETS}", self.url);
        let answer = door.ask(&door.signer.missed_for_websockets(&url, &topic));
        assert_eq!(answer.status, 200, "{}", self.log());
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
