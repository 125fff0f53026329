//! Timing by events on the stream, sustained and cool.
//!
//! A card at full load lowers its clock after some 100 ms, so one number is not enough: `sustained` is the median of
//! the second half of a train of replays that starts after a pause, `cool` the median of its first 40 ms.

use std::time::{Duration, Instant};

use crate::Result;
use crate::cuda::{Context, Event, Stream};

/// Replays between two looks at the clock.
const BATCH: usize = 32;
/// Length of the cool part.
const COOL_US: f32 = 40_000.0;

/// Microseconds of one replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Median of the second half of the train.
    pub sustained_us: f64,
    /// Median of its first 40 ms.
    pub cool_us: f64,
    /// Distance of the quartiles of the second half over its median.
    pub spread: f64,
    /// Replays timed.
    pub replays: usize,
}

/// Times `replay`, which enqueues one piece of work on `stream`, for `seconds` after a pause of as long.
pub fn time(
    context: &Context,
    stream: &Stream,
    seconds: f64,
    mut replay: impl FnMut() -> Result<()>,
) -> Result<Timing> {
    for _ in 0..3 {
        replay()?;
    }
    stream.synchronize()?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let events = (0..=BATCH).map(|_| Event::new(context)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let mut us = Vec::new();
    while start.elapsed().as_secs_f64() < seconds || us.len() < 2 * BATCH {
        events[0].record(stream)?;
        for event in &events[1..] {
            replay()?;
            event.record(stream)?;
        }
        for pair in events.windows(2) {
            us.push(pair[1].elapsed_ms_since(&pair[0])? * 1000.0);
        }
        if start.elapsed().as_secs_f64() > 4.0 * seconds && us.len() >= BATCH {
            break;
        }
    }
    let mut spent = 0.0;
    let cool = us
        .iter()
        .take_while(|&&t| {
            spent += t;
            spent <= COOL_US
        })
        .count()
        .max(3.min(us.len()));
    let (sustained_us, spread) = median(&us[us.len() / 2..]);
    Ok(Timing { sustained_us, cool_us: median(&us[..cool]).0, spread, replays: us.len() })
}

/// Median, and distance of the quartiles over it.
fn median(us: &[f32]) -> (f64, f64) {
    let mut sorted: Vec<f64> = us.iter().map(|&t| f64::from(t)).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |q: usize| sorted[(sorted.len() - 1) * q / 4];
    (at(2), (at(3) - at(1)) / at(2))
}

#[cfg(test)]
mod tests {
    #[test]
    fn median_and_quartiles() {
        let (median, spread) = super::median(&[5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!((median, spread), (3.0, 2.0 / 3.0));
    }
}
