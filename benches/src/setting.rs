//! What all benchmarks of one run have in common.

use std::path::PathBuf;

use serde_json::json;

use crate::machine::Cores;

/// What is measured, and where it runs.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The broadcaster's program.
    pub(crate) program: PathBuf,
    pub(crate) cores: Option<Cores>,
}

impl Setting {
    /// One line for people.
    pub(crate) fn describe(&self) -> String {
        match self.cores {
            Some(Cores {
                measured,
                measuring,
            }) => format!(
                "broadcaster and yardstick on core {measured}, subscribers and publishers on core \
                 {measuring}"
            ),
            None => {
                "not pinned (no taskset, or one core): all processes share all cores".to_owned()
            }
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!({
            "broadcaster": self.program,
            "core_measured": self.cores.map(|cores| cores.measured),
            "core_measuring": self.cores.map(|cores| cores.measuring),
        })
    }
}
