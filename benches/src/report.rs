//! Figures for people and for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

/// What one turn of one competitor measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) deliveries: u64,
    pub(crate) elapsed: Duration,
    /// Computing of the process that is measured, in `elapsed`.
    pub(crate) cpu: Duration,
    /// Computing of sinks and publishers, in about `elapsed`.
    pub(crate) cpu_of_sinks: Duration,
    /// The most memory that the process ever had, in bytes.
    pub(crate) memory_max: u64,
    pub(crate) latency: Latency,
}

/// How long after it was sent a message had been received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p90: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Latency {
    /// Of a histogram of nanoseconds.
    pub(crate) fn of(nanoseconds: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_nanos(nanoseconds.value_at_quantile(quantile));
        let max = Duration::from_nanos(nanoseconds.max());
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max,
        }
    }
}

/// The turns of one competitor; every figure is the median of the turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns<'a>(pub(crate) &'a [Turn]);

impl Turns<'_> {
    pub(crate) fn deliveries_per_second(self) -> f64 {
        self.median(Turn::deliveries_per_second)
    }

    pub(crate) fn cpu_microseconds_per_delivery(self) -> f64 {
        self.median(|turn| turn.cpu.as_secs_f64() * 1e6 / turn.deliveries.max(1) as f64)
    }

    /// Share of the time in which the process was computing; 1 is one core.
    pub(crate) fn busy(self) -> f64 {
        self.median(|turn| turn.cpu.as_secs_f64() / turn.elapsed.as_secs_f64())
    }

    /// Likewise of sinks and publishers: near 1, they are what limits.
    pub(crate) fn busy_of_sinks(self) -> f64 {
        self.median(|turn| turn.cpu_of_sinks.as_secs_f64() / turn.elapsed.as_secs_f64())
    }

    pub(crate) fn latency_milliseconds(self, of: impl Fn(&Latency) -> Duration) -> f64 {
        self.median(|turn| milliseconds(of(&turn.latency)))
    }

    /// The most of all turns, in MiB.
    pub(crate) fn memory_max_mib(self) -> f64 {
        mebibytes(self.0.iter().map(|turn| turn.memory_max).max().unwrap_or(0))
    }

    /// How many times the deliveries a second of `other`, turn by turn.
    pub(crate) fn ratio_to(self, other: Self) -> f64 {
        let pairs = self.0.iter().zip(other.0);
        median(
            pairs
                .map(|(a, b)| a.deliveries_per_second() / b.deliveries_per_second())
                .collect(),
        )
    }

    fn median(self, figure: impl Fn(&Turn) -> f64) -> f64 {
        median(self.0.iter().map(figure).collect())
    }

    pub(crate) fn to_json(self) -> serde_json::Value {
        json!({
            "deliveries_per_second": self.deliveries_per_second(),
            "latency_p50_ms": self.latency_milliseconds(|it| it.p50),
            "latency_p90_ms": self.latency_milliseconds(|it| it.p90),
            "latency_p99_ms": self.latency_milliseconds(|it| it.p99),
            "cpu_us_per_delivery": self.cpu_microseconds_per_delivery(),
            "busy": self.busy(),
            "busy_of_sinks": self.busy_of_sinks(),
            "memory_max_mib": self.memory_max_mib(),
            "turns_deliveries_per_second":
                self.0.iter().map(Turn::deliveries_per_second).collect::<Vec<_>>(),
        })
    }
}

impl Turn {
    pub(crate) fn deliveries_per_second(&self) -> f64 {
        self.deliveries as f64 / self.elapsed.as_secs_f64()
    }
}

/// What a run gives back: the same figures twice.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) json: serde_json::Value,
}

/// Rows of cells, the first one a heading: the first columns to the left, figures to the right.
pub(crate) fn table(rows: &[Vec<String>], left_columns: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| {
                if column < left_columns {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => figures[odd / 2],
        even => f64::midpoint(figures[even / 2 - 1], figures[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_table_lines_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["who", "rate"]), row(["broadcaster", "7"])], 1);
        assert_eq!(text, "who          rate\nbroadcaster     7\n");
    }
}
