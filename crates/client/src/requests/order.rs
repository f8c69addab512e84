//! In which order broadcasters are asked (`docs/protocol/stateless.md` §9).

/// One pass over broadcasters of these priorities: lower ones first, those without one last, each
/// group in an order that `random` draws, a number from [0, 1) at a time.
pub(crate) fn pass(priorities: &[Option<u32>], mut random: impl FnMut() -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..priorities.len()).collect();
    // The sort is stable, so within a priority the shuffled order stays.
    shuffle(&mut order, &mut random);
    order.sort_by_key(|at| priorities[*at].map_or((true, 0), |priority| (false, priority)));
    order
}

/// Fisher-Yates: every order is as likely as any other.
fn shuffle(order: &mut [usize], random: &mut impl FnMut() -> f64) {
    for last in (1..order.len()).rev() {
        // The product is below `last` + 1, so the cut is exact for any number of broadcasters.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let other = (random() * (last + 1) as f64) as usize;
        order.swap(last, other.min(last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn lower_priorities_come_first_and_none_last() {
        let priorities = [None, Some(2), Some(0), None, Some(2)];
        for _ in 0..50 {
            let order = pass(&priorities, rand::random);
            assert_eq!(order[0], 2);
            assert_eq!(HashSet::from([1, 4]), order[1..3].iter().copied().collect());
            assert_eq!(HashSet::from([0, 3]), order[3..].iter().copied().collect());
        }
    }

    #[test]
    fn every_order_within_a_group_is_drawn() {
        let drawn = (0..500).map(|_| pass(&[None; 3], rand::random));
        assert_eq!(drawn.collect::<HashSet<_>>().len(), 6);
    }
}
