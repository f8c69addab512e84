//! The troubles of the store, each noted by the part that met it and ended by the same part.
//!
//! Writing can fail while reading works, as on a full disk; so one success does not end the trouble
//! of another part.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sqlite::failure::Failure;

/// The last outcome of each part of the store.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<[Option<String>; PARTS]>);

/// A part of the store that can fail by itself: writing may be impossible while reading is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The files are where the store opened them.
    Files,
    /// Changes can be committed.
    Writer,
    /// Questions can be answered.
    Reader,
    /// Changes of other processes can be read.
    Feeder,
}

const PARTS: usize = 4;

impl Health {
    /// Notes that `part` failed, or that it did what it was asked. A failure of one statement says
    /// nothing about the database.
    pub(super) fn note(&self, part: Part, failure: Option<&Failure>) {
        let trouble = match failure {
            Some(failure) if failure.spares_transaction() => return,
            // The caller gave up or the store is closed; the part did nothing.
            Some(Failure::Stopped) => return,
            failure => failure.map(ToString::to_string),
        };
        let mut troubles = self.troubles();
        let known = &mut troubles[part as usize];
        if part == Part::Files && *known != trouble {
            match &trouble {
                Some(trouble) => tracing::error!("{trouble}"),
                None => tracing::info!("the files of the database are back"),
            }
        }
        *known = trouble;
    }

    /// `true` if the last that is known of `part` is a failure.
    pub(super) fn is_troubled(&self, part: Part) -> bool {
        self.troubles()[part as usize].is_some()
    }

    /// One of the troubles, the most fundamental first.
    pub(super) fn trouble(&self) -> Option<String> {
        self.troubles().iter().flatten().next().cloned()
    }

    fn troubles(&self) -> MutexGuard<'_, [Option<String>; PARTS]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
