//! Websockets: deliveries next to a plain echo, idle sessions, and one large message.

mod deliveries;
mod echo;
mod idle;
mod sessions;
mod streamed;

pub(crate) use echo::{SUBCOMMAND as ECHO, main as echo};

use crate::keys::Auth;
use crate::message::Label;
use crate::report::Report;
use crate::setting::Setting;

/// Deliveries a second next to a plain echo, memory of idle sessions, and one large message.
///
/// The echo is tokio-tungstenite in a process of its own: it sends messages of the same length to
/// as many websockets, and each answers with as many bytes as an acknowledgement has.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Websocket {
    /// Measure this and not the others; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Part>,

    /// How many subscribers each notification is for.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    sessions: u32,

    /// Size of a message, at least 16.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(Label::BYTES as u64..=1_000_000)
    )]
    message_bytes: u64,

    /// How messages are authorized, in deliveries.
    #[arg(long, value_enum, default_value_t = Auth::None)]
    auth: Auth,

    /// How many messages the echo sends to a websocket before the first is answered. The
    /// broadcaster sends 3.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1_000)
    )]
    echo_in_flight: u32,

    /// Length of a turn of deliveries.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 4,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    seconds: u64,

    /// How many turns of deliveries each has; figures are medians of turns.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1_000)
    )]
    turns: u32,

    /// How many sessions are idle.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=25_000)
    )]
    idle: u32,

    /// How long they are idle; the broadcaster pings after 20 s.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 50,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    idle_seconds: u64,

    /// Size of the large message.
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 1_024,
        value_parser = clap::value_parser!(u64).range(1..=1_048_576)
    )]
    mib: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Deliveries a second, next to the echo.
    Deliveries,
    /// Memory of sessions that do nothing.
    Idle,
    /// One large message from one websocket to another.
    Large,
}

impl Websocket {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let is_wanted = |part| self.only.is_empty() || self.only.contains(&part);
        let mut reports = Vec::new();
        if is_wanted(Part::Deliveries) {
            reports.push(deliveries::run(self, setting).await?);
        }
        if is_wanted(Part::Idle) {
            reports.push(idle::run(self, setting).await?);
        }
        if is_wanted(Part::Large) {
            reports.push(streamed::run(self, setting).await?);
        }
        let texts: Vec<_> = reports.iter().map(|it| it.text.as_str()).collect();
        Ok(Report {
            text: texts.join("\n"),
            json: reports.iter().map(|it| it.json.clone()).collect(),
        })
    }
}
