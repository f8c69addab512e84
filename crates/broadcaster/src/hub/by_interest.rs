//! What the websocket sessions of this process want, by topic and glob.
//!
//! Globs are found as in the index: by a piece of text that every topic has which they match. A
//! broadcaster may have a hundred thousand sessions that want as many globs.

use std::sync::Arc;

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;
use rustc_hash::FxHashMap;

use crate::hub::member::Member;
use crate::index::globs::{Globs, Key, Snapshot};

/// The sessions and the row of each topic and glob.
#[derive(Debug, Default)]
pub(super) struct ByInterest {
    exacts: FxHashMap<Topic, Wanted>,
    /// Each with the key by which `found_by` finds it.
    globs: FxHashMap<GlobPattern, (Wanted, Key)>,
    found_by: Globs,
}

impl ByInterest {
    /// The entry of `interest`, made if there is none yet.
    pub(super) fn entry(&mut self, interest: &Interest) -> &mut Wanted {
        match interest {
            Interest::Exact(topic) => self.exacts.entry(topic.clone()).or_default(),
            Interest::Glob(glob) => {
                let found_by = &mut self.found_by;
                let entry = self.globs.entry(glob.clone());
                let (wanted, _) = entry.or_insert_with(|| (Wanted::default(), found_by.add(glob)));
                wanted
            }
        }
    }

    /// Forgets `interest`.
    pub(super) fn remove(&mut self, interest: &Interest) {
        match interest {
            Interest::Exact(topic) => drop(self.exacts.remove(topic)),
            Interest::Glob(glob) => {
                if let Some((_, key)) = self.globs.remove(glob) {
                    self.found_by.remove(glob, key);
                }
            }
        }
    }

    /// The entry of `interest`, if it is wanted or was.
    pub(super) fn get(&self, interest: &Interest) -> Option<&Wanted> {
        match interest {
            Interest::Exact(topic) => self.exacts.get(topic),
            Interest::Glob(glob) => self.globs.get(glob).map(|(wanted, _)| wanted),
        }
    }

    /// The entry of a glob.
    pub(super) fn get_glob(&self, glob: &GlobPattern) -> Option<&Wanted> {
        self.globs.get(glob).map(|(wanted, _)| wanted)
    }

    /// The entry of `interest`, to be changed.
    pub(super) fn get_mut(&mut self, interest: &Interest) -> Option<&mut Wanted> {
        match interest {
            Interest::Exact(topic) => self.exacts.get_mut(topic),
            Interest::Glob(glob) => self.globs.get_mut(glob).map(|(wanted, _)| wanted),
        }
    }

    /// Those of which `is_it` is true. There may be many of others, which are not copied.
    pub(super) fn filter(
        &self,
        is_it: impl Fn(&Wanted) -> bool,
    ) -> impl Iterator<Item = (Interest, &Wanted)> {
        let is_it = Arc::new(is_it);
        let (exacts, of_globs) = (self.exacts.iter(), is_it.clone());
        let exacts = exacts.filter(move |(_, it)| is_it(it));
        let exacts = exacts.map(|(topic, it)| (Interest::Exact(topic.clone()), it));
        let globs = self.globs.iter().map(|(glob, (it, _))| (glob, it));
        let globs = globs.filter(move |(_, it)| of_globs(it));
        let globs = globs.map(|(glob, it)| (Interest::Glob(glob.clone()), it));
        exacts.chain(globs)
    }

    /// The entries of all topics and globs.
    pub(super) fn all(&self) -> impl Iterator<Item = &Wanted> {
        self.exacts
            .values()
            .chain(self.globs.values().map(|(it, _)| it))
    }

    /// Calls `visit` with what is kept of each topic and glob that matches, if that is found out in
    /// a moment; otherwise with that of the topic, and returns the globs to be matched elsewhere.
    pub(super) fn matching(
        &self,
        topic: &Topic,
        mut visit: impl FnMut(&Wanted),
    ) -> Option<Snapshot> {
        if let Some(exact) = self.exacts.get(topic) {
            visit(exact);
        }
        let text = topic.as_str()?;
        let candidates = self.found_by.candidates(text);
        candidates.matching_at_once(text, |glob| {
            if let Some((wanted, _)) = self.globs.get(glob) {
                visit(wanted);
            }
        })
    }
}

/// A topic or glob that sessions want. A row of the store stands for all of them.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Number of sessions that want it or are about to.
    pub(super) sessions: usize,
    /// The sessions that get what matches.
    pub(super) members: Vec<Arc<Member>>,
    pub(super) row: Row,
}

/// A row of the store, held while it is changed; `true` if it exists.
pub(super) type Row = Arc<tokio::sync::Mutex<bool>>;
