//! What the broadcaster's process holds, second by second, and whether that grows.

use std::time::Duration;

use anyhow::Context as _;

use crate::report::mebibytes;

/// Memory at a moment of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) memory: u64,
}

/// How memory grows, in MiB an hour: the estimate, and the interval that holds the truth with a
/// probability of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slope {
    pub(crate) estimate: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Samples that follow each other closely are alike; means over so long are nearly independent.
const WINDOW: Duration = Duration::from_secs(10);

/// The slope of what came at `warm_up` or later, by linear regression over means of
/// [`WINDOW`]s. `None` of fewer than three of them.
pub(crate) fn slope(samples: &[Sample], warm_up: Duration) -> Option<Slope> {
    let mut means: Vec<(f64, f64)> = Vec::new();
    let warm = samples.iter().filter(|sample| sample.at >= warm_up);
    let warm: Vec<_> = warm.copied().collect();
    for window in warm.chunk_by(|a, b| number(a.at) == number(b.at)) {
        let count = window.len() as f64;
        let hours = window.iter().map(|it| it.at.as_secs_f64() / 3_600.0);
        let memory = window.iter().map(|it| mebibytes(it.memory));
        means.push((hours.sum::<f64>() / count, memory.sum::<f64>() / count));
    }
    let count = means.len() as f64;
    if means.len() < 3 {
        return None;
    }
    let mean_x = means.iter().map(|it| it.0).sum::<f64>() / count;
    let mean_y = means.iter().map(|it| it.1).sum::<f64>() / count;
    let sum = |of: fn(f64, f64) -> f64| -> f64 {
        let terms = means.iter().map(|(x, y)| of(x - mean_x, y - mean_y));
        terms.sum()
    };
    let (xx, xy) = (sum(|x, _| x * x), sum(|x, y| x * y));
    let estimate = xy / xx;
    let squares = means.iter().map(|(x, y)| {
        let residual = (y - mean_y) - estimate * (x - mean_x);
        residual * residual
    });
    let freedom = count - 2.0;
    let deviation = (squares.sum::<f64>() / freedom / xx).sqrt();
    // Student's t at 97.5 %, good to a few per cent from 3 degrees of freedom on.
    let t = 1.96 + 2.4 / freedom + 2.8 / (freedom * freedom);
    Some(Slope {
        estimate,
        low: estimate - t * deviation,
        high: estimate + t * deviation,
    })
}

fn number(at: Duration) -> u64 {
    at.as_secs() / WINDOW.as_secs()
}

/// How many descriptors the process has open.
pub(crate) fn descriptors(pid: u32) -> anyhow::Result<usize> {
    let folder = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    Ok(entries.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_found_in_noise_and_its_interval_holds_it() {
        let samples: Vec<_> = (0..600).map(|at| sample(at, 12.0)).collect();
        let slope = slope(&samples, Duration::from_secs(100)).expect("there is enough");
        assert!(slope.low < 12.0 && 12.0 < slope.high, "{slope:?}");
        assert!(slope.high - slope.low < 4.0, "{slope:?}");
    }

    #[test]
    fn without_growth_the_interval_holds_zero() {
        let samples: Vec<_> = (0..600).map(|at| sample(at, 0.0)).collect();
        let slope = slope(&samples, Duration::from_secs(100)).expect("there is enough");
        assert!(slope.low < 0.0 && 0.0 < slope.high, "{slope:?}");
    }

    /// 20 MiB that grow by so many an hour, and up to 1 MiB of noise.
    fn sample(at: u64, mebibytes_an_hour: f64) -> Sample {
        let noise = (at * 7_919 % 1_009) as f64 / 1_009.0;
        let mebibytes = 20.0 + mebibytes_an_hour * at as f64 / 3_600.0 + noise;
        Sample {
            at: Duration::from_secs(at),
            memory: (mebibytes * 1024.0 * 1024.0) as u64,
        }
    }
}
