//! Progress on a terminal; silent when stderr is not one.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

static ENABLED: AtomicBool = AtomicBool::new(true);

/// Turns progress off for `--quiet`.
pub fn set_enabled(enabled: bool) {
    ENABLED.store(enabled, Ordering::Relaxed);
}

/// A bar over `bytes` bytes.
pub fn bytes(what: &str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), target());
    bar.set_style(style("{msg:<24} [{bar:32}] {bytes:>10}/{total_bytes} {binary_bytes_per_sec} {eta}"));
    bar.set_message(what.to_owned());
    bar
}

/// A bar over `steps` steps.
pub fn steps(what: &str, steps: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), target());
    bar.set_style(style("{msg:<24} [{bar:32}] {pos:>5}/{len} {eta}"));
    bar.set_message(what.to_owned());
    bar
}

fn target() -> ProgressDrawTarget {
    if ENABLED.load(Ordering::Relaxed) && std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are literals; a broken one would only lose the layout.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
