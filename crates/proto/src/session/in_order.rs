//! Answers that leave in the order of what they answer, whatever the order they become ready in.

use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct InOrder<T> {
    /// `None` where an answer is still awaited.
    slots: VecDeque<Option<T>>,
    /// Number of answers that have left.
    left: u64,
}

impl<T> InOrder<T> {
    pub(super) fn new() -> Self {
        Self {
            slots: VecDeque::new(),
            left: 0,
        }
    }

    /// Takes the next place, for an answer that will be ready later.
    pub(super) fn place(&mut self) -> u64 {
        self.slots.push_back(None);
        // Counted from the start of the connection, so that a place means the same after earlier
        // answers have left.
        self.left + self.slots.len() as u64 - 1
    }

    /// Puts `ready` in its place, unless the answer that belongs there has left.
    pub(super) fn fill(&mut self, place: u64, ready: T) {
        // A place that has left is below the first slot.
        let at = place.checked_sub(self.left);
        let at = at.and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = at.and_then(|at| self.slots.get_mut(at)) {
            *slot = Some(ready);
        }
    }

    /// Takes the next place for an answer that is ready.
    pub(super) fn push(&mut self, ready: T) {
        self.slots.push_back(Some(ready));
    }

    /// The next one, if it is ready.
    pub(super) fn pop(&mut self) -> Option<T> {
        if let Some(Some(_)) = self.slots.front() {
            self.left += 1;
            return self.slots.pop_front().flatten();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ready_waits_for_what_came_before() {
        let mut ordered = InOrder::new();
        let (first, second) = (ordered.place(), ordered.place());
        ordered.push('c');
        ordered.fill(second, 'b');
        assert_eq!(ordered.pop(), None);
        ordered.fill(first, 'a');
        assert_eq!(ordered.pop(), Some('a'));
        assert_eq!(ordered.pop(), Some('b'));
        assert_eq!(ordered.pop(), Some('c'));
        assert_eq!(ordered.pop(), None);
        // A place that has left cannot be filled again.
        ordered.fill(first, 'x');
        assert_eq!(ordered.pop(), None);
    }
}
