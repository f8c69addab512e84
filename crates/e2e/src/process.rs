//! A child process that is read line by line against a deadline, and killed when it is dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::patience::PATIENCE;

/// A running program of either side.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: Arc<Log>,
    /// Whether it is known to have ended: what it wrote is complete as soon as it was read.
    has_ended: bool,
}

/// What a process wrote to standard error.
#[derive(Debug, Default)]
struct Log {
    text: Mutex<LogText>,
    grew: Condvar,
}

#[derive(Debug, Default)]
struct LogText {
    text: String,
    /// Nothing more comes.
    is_complete: bool,
}

impl Process {
    /// Starts `command`; `name` stands for it in what a failing test says.
    pub fn spawn(name: impl Into<String>, mut command: Command) -> Self {
        let name = name.into();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: could not start {command:?}: {error}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it was piped above");
        let mut stderr = child.stderr.take().expect("it was piped above");

        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let log = Arc::new(Log::default());
        let written = Arc::clone(&log);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut piece) {
                let text = String::from_utf8_lossy(&piece[..read]);
                let mut log = written.text.lock().unwrap_or_else(PoisonError::into_inner);
                log.text.push_str(&text);
                written.grew.notify_all();
            }
            let mut log = written.text.lock().unwrap_or_else(PoisonError::into_inner);
            log.is_complete = true;
            written.grew.notify_all();
        });
        Self {
            name,
            child,
            stdin,
            lines,
            log,
            has_ended: false,
        }
    }

    /// The next line on standard output.
    ///
    /// # Panics
    ///
    /// If none comes within [`PATIENCE`] or the process ends first.
    #[track_caller]
    pub fn line(&self) -> String {
        match self.line_if_any() {
            Some(line) => line,
            None => self.fail("closed its output"),
        }
    }

    /// The next line; `None` if the process closed its output before.
    ///
    /// # Panics
    ///
    /// If neither happens within [`PATIENCE`].
    #[track_caller]
    pub fn line_if_any(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => self.fail("said nothing in time"),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// The next line, which must be JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let line = self.line();
        match serde_json::from_str(&line) {
            Ok(value) => value,
            Err(_) => self.fail(&format!("wrote a line that is not JSON: {line}")),
        }
    }

    /// The next line, which must be the JSON event of that name.
    #[track_caller]
    pub fn event(&self, name: &str) -> Value {
        let event = self.json();
        if event["event"] != name {
            self.fail(&format!("wrote {event} where {name:?} was expected"));
        }
        event
    }

    /// Writes one line of JSON to its standard input.
    #[track_caller]
    pub fn tell(&mut self, job: &Value) {
        let written = match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{job}").and_then(|()| stdin.flush()),
            None => self.fail("was told something after it was asked to leave"),
        };
        if let Err(error) = written {
            self.fail(&format!("does not read its input: {error}"));
        }
    }

    /// Ends its standard input, which asks a peer of ours in Python to leave.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM, which asks our binary to leave.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.signal("TERM");
    }

    /// Sends SIGINT, as Ctrl-C at a terminal does.
    #[track_caller]
    pub fn interrupt(&mut self) {
        self.signal("INT");
    }

    /// Sends SIGHUP, as when a terminal is closed.
    #[track_caller]
    pub fn hang_up(&mut self) {
        self.signal("HUP");
    }

    #[track_caller]
    fn signal(&mut self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        if !sent.is_ok_and(|status| status.success()) {
            self.fail(&format!("could not be sent SIG{name}"));
        }
    }

    /// Kills it with SIGKILL: it gets no chance to do anything. Returns when it is gone.
    pub fn kill(&mut self) {
        // Both fail only if it is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.has_ended = true;
    }

    /// Waits for its end and returns how it ended with the lines nobody had read.
    ///
    /// # Panics
    ///
    /// If it does not end within [`PATIENCE`].
    #[track_caller]
    pub fn end(&mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        let mut rest = Vec::new();
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.fail("did not end in time"),
            }
        }
        // Its output is closed, so it is gone or about to be.
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.has_ended = true;
                    return (status, rest);
                }
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Err(error) => self.fail(&format!("cannot be waited for: {error}")),
            }
        }
        self.fail("closed its output and did not end in time")
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.has_ended = matches!(self.child.try_wait(), Ok(Some(_)));
        self.has_ended
    }

    /// Waits for its end, which must be a good one; returns the lines nobody had read.
    #[track_caller]
    pub fn end_well(&mut self) -> Vec<String> {
        let (status, rest) = self.end();
        if !status.success() {
            self.fail(&format!("ended with {status} after {rest:?}"));
        }
        rest
    }

    /// Fails the test, naming this process and showing what it logged.
    #[track_caller]
    pub fn fail(&self, what: &str) -> ! {
        panic!(
            "{} {what}\n--- its standard error:\n{}",
            self.name,
            self.log()
        )
    }

    /// What it has written to standard error: all of it when its end was waited for, otherwise as
    /// much as was read already. What is not in the log of a process that runs may still come.
    pub fn log(&self) -> String {
        let log = self.log.text.lock().unwrap_or_else(PoisonError::into_inner);
        let is_missing = |log: &mut LogText| self.has_ended && !log.is_complete;
        let waited = self.log.grew.wait_timeout_while(log, PATIENCE, is_missing);
        let (log, _) = waited.unwrap_or_else(PoisonError::into_inner);
        log.text.clone()
    }

    /// The first line on standard error that contains `part`, which may have been written already.
    ///
    /// # Panics
    ///
    /// If none comes within [`PATIENCE`].
    #[track_caller]
    pub fn log_line(&self, part: &str) -> String {
        let find = |log: &str| {
            log.lines()
                .find(|line| line.contains(part))
                .map(str::to_owned)
        };
        let log = self.log.text.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |log: &mut LogText| find(&log.text).is_none() && !log.is_complete;
        let (log, _) = self
            .log
            .grew
            .wait_timeout_while(log, PATIENCE, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let found = find(&log.text);
        drop(log);
        found.unwrap_or_else(|| self.fail(&format!("did not log {part:?}")))
    }

    /// How much memory it has now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.status_kib("VmRSS:") * 1024
    }

    /// Resident memory in bytes without what was freed a moment ago: the least that is read within
    /// two seconds. The allocator of the program gives freed pages back after one.
    pub fn kept_bytes(&self) -> u64 {
        let readings = (0..40).map(|_| {
            thread::sleep(Duration::from_millis(50));
            self.resident_bytes()
        });
        readings.min().unwrap_or_default()
    }

    /// The most memory it ever had, in bytes.
    pub fn resident_bytes_max(&self) -> u64 {
        self.status_kib("VmHWM:") * 1024
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.expect("the kernel says it in KiB")
    }

    /// What its file descriptors refer to, by name.
    pub fn open_files(&self) -> Vec<String> {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs");
        let links = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links
            .map(|link| link.to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
