//! How far a run is, on a terminal.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use ptx_emulator::machine::Progress;

/// A run of several schedules.
pub struct Display {
    start: Instant,
    schedules: usize,
    visible: bool,
}

impl Display {
    /// Of `schedules` launches that begin now; nothing is shown if stderr is no terminal.
    pub fn new(schedules: usize) -> Self {
        Self { start: Instant::now(), schedules, visible: std::io::stderr().is_terminal() }
    }

    /// The bar of launch number `index`, which is to be finished and cleared.
    pub fn bar(&self, index: usize, name: &str, progress: &Arc<Progress>) -> ProgressBar {
        if !self.visible {
            return ProgressBar::hidden();
        }
        let (all, start, begun) = (self.schedules, self.start, Instant::now());
        let (name, progress) = (name.to_owned(), Arc::clone(progress));
        let text = move |_: &ProgressState, out: &mut dyn Write| {
            let line = line((index, all), &name, &progress, begun.elapsed(), start.elapsed());
            // What cannot be shown is not.
            let _ = out.write_str(&line);
        };
        let style = ProgressStyle::with_template("{spinner} {text}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style.with_key("text", text));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// One line: schedule, CTAs, warp instructions and their rate, time left.
fn line(
    (index, all): (usize, usize),
    name: &str,
    progress: &Progress,
    this: Duration,
    total: Duration,
) -> String {
    let (done, ctas, n) = (progress.done(), progress.ctas(), progress.warp_instructions());
    let rate = n as f64 / this.as_secs_f64().max(1e-3);
    let left = match left(index as f64 + done as f64 / ctas.max(1) as f64, all as f64, total) {
        Some(left) => format!("about {} left", HumanDuration(left)),
        None => "time left unknown".to_owned(),
    };
    format!(
        "schedule {name} ({} of {all}): {done} of {ctas} CTAs, {} warp instructions, {}/s, {left}",
        index + 1,
        scaled(n as f64),
        scaled(rate)
    )
}

/// Time left if the rest takes as long as what is done; `None` as long as nothing is.
fn left(done: f64, all: f64, elapsed: Duration) -> Option<Duration> {
    (done > 0.0).then(|| elapsed.mul_f64(((all - done) / done).max(0.0)))
}

fn scaled(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0} "),
    }
    .trim_end()
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left() {
        let seconds = Duration::from_secs;
        assert_eq!(left(0.0, 10.0, seconds(5)), None);
        assert_eq!(left(2.5, 10.0, seconds(5)), Some(seconds(15)));
        assert_eq!(left(10.0, 10.0, seconds(5)), Some(seconds(0)));
    }

    #[test]
    fn text() {
        let text = line((1, 6), "seed:1", &Progress::default(), Duration::ZERO, Duration::from_secs(10));
        assert_eq!(
            text,
            "schedule seed:1 (2 of 6): 0 of 0 CTAs, 0 warp instructions, 0/s, about 50 seconds left"
        );
        assert_eq!([12.0, 1500.0, 2.5e6, 3e9].map(scaled), ["12", "1.5 k", "2.50 M", "3.00 G"]);
    }
}
