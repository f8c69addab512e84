//! What is asked of the operating system: cores to run on, time, and what a process has used.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use httppubsub_proto::time::Now;
use tokio::io::AsyncWriteExt as _;

/// Which core runs what is measured and which runs what measures it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// Of the broadcaster and of the yardstick.
    pub(crate) measured: usize,
    /// Of sinks and publishers.
    pub(crate) measuring: usize,
}

impl Cores {
    /// Moves this process to the second core it may use and leaves the first to what is measured.
    /// `None` without `taskset` or a second core: then everything shares all cores.
    ///
    /// Threads that are already running stay where they are, so this comes before the runtime.
    pub(crate) fn claim() -> Option<Self> {
        let allowed = status_field("self", "Cpus_allowed_list").ok()?;
        let mut cores = parse_cores(&allowed).into_iter();
        let cores = Self {
            measured: cores.next()?,
            measuring: cores.next()?,
        };
        let moved = Command::new("taskset")
            .args([
                "-cp",
                &cores.measuring.to_string(),
                &std::process::id().to_string(),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        moved.is_ok_and(|status| status.success()).then_some(cores)
    }
}

/// `command`, run where measured processes run.
pub(crate) fn measured(command: Command, cores: Option<Cores>) -> tokio::process::Command {
    let mut command = match cores {
        Some(cores) => {
            let mut pinned = Command::new("taskset");
            pinned
                .args(["-c", &cores.measured.to_string()])
                .arg(command.get_program())
                .args(command.get_args());
            let variables = command.get_envs();
            pinned.envs(variables.filter_map(|(name, value)| Some((name, value?))));
            // Its runtime would see all cores of the machine and switch between that many threads.
            pinned.env("TOKIO_WORKER_THREADS", "1");
            tokio::process::Command::from(pinned)
        }
        None => tokio::process::Command::from(command),
    };
    command.kill_on_drop(true);
    command
}

/// Starts this program where measured processes run, as its hidden `subcommand`, and hands it
/// `order` on its stdin.
pub(crate) async fn start_yardstick(
    subcommand: &str,
    order: &serde_json::Value,
    cores: Option<Cores>,
) -> anyhow::Result<tokio::process::Child> {
    let mut process = measured(Command::new(std::env::current_exe()?), cores)
        .arg(subcommand)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the yardstick")?;
    let stdin = process.stdin.take();
    let mut stdin = stdin.context("the yardstick's stdin is gone")?;
    stdin.write_all(order.to_string().as_bytes()).await?;
    Ok(process)
}

/// What [`start_yardstick`] has handed to this process.
pub(crate) fn order() -> anyhow::Result<serde_json::Value> {
    let order = std::io::read_to_string(std::io::stdin())?;
    serde_json::from_str(&order).context("the order")
}

/// The wall clock, which all processes of one machine share.
#[allow(
    clippy::disallowed_methods,
    reason = "the benches have no clock to set"
)]
pub(crate) fn now() -> Now {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Now::from_unix(since_epoch.unwrap_or_default())
}

/// How long the process has been computing, in user and system mode, in steps of 10 ms.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = parse_cpu_ticks(&stat).with_context(|| format!("{path} is {stat:?}"))?;
    Ok(TICK * ticks)
}

/// Memory of the process that is resident now, in bytes.
pub(crate) fn memory(pid: u32) -> anyhow::Result<u64> {
    memory_field(pid, "VmRSS")
}

/// The most memory of the process that ever was resident, in bytes.
pub(crate) fn memory_max(pid: u32) -> anyhow::Result<u64> {
    memory_field(pid, "VmHWM")
}

fn memory_field(pid: u32, name: &str) -> anyhow::Result<u64> {
    let value = status_field(&pid.to_string(), name)?;
    let kib = value
        .strip_suffix(" kB")
        .and_then(|kib| kib.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{name} of process {pid} is {value:?}"))? * 1024)
}

fn status_field(pid: &str, name: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value.trim().to_owned())
        .with_context(|| format!("{path} has no {name}"))
}

/// `0,2-4` are four cores.
fn parse_cores(list: &str) -> Vec<usize> {
    let range = |entry: &str| {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// The sum of the 14th and 15th field. The second one is the program's name in brackets, which may
/// hold anything, so counting starts behind its last bracket.
fn parse_cpu_ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Unit of times in `/proc`: USER_HZ is 100 on every Linux that this runs on.
const TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_listed_singly_and_in_ranges() {
        assert_eq!(parse_cores("0,2-4"), [0, 2, 3, 4]);
        assert_eq!(parse_cores("1"), [1]);
        assert_eq!(parse_cores(""), [0; 0]);
    }

    #[test]
    fn a_programs_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 5 0 0";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
    }
}
