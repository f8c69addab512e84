//! Values that belong to the process that made them.

use crate::failure::Failure;

/// A value of the process that made it. In a child of that process the threads that work on it are
/// missing, and may have left locks of it locked, so there it is neither used nor dropped.
pub(crate) struct OfProcess<T> {
    value: Option<T>,
    process: u32,
}

impl<T> OfProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Some(value),
            process: std::process::id(),
        }
    }

    /// The value, or the reason why it cannot be used.
    pub(crate) fn get(&self) -> Result<&T, Failure> {
        match &self.value {
            Some(value) if self.process == std::process::id() => Ok(value),
            _ => Err(Failure::new("ClosedError", "it was made before a fork")),
        }
    }
}

impl<T> Drop for OfProcess<T> {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            std::mem::forget(self.value.take());
        }
    }
}
