//! The ways to the threads of a store.

use tokio::sync::mpsc;

use crate::sqlite::call::Queue;
use crate::sqlite::feeder::Ask;

/// One way to each thread. A thread ends when its way is gone.
pub(super) struct Doors {
    pub(super) writer: Queue,
    pub(super) reader: Queue,
    pub(super) feeder: mpsc::Sender<Ask>,
}
