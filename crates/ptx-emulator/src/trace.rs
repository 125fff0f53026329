//! What ran when, for Chrome's trace viewer (`chrome://tracing`, Perfetto): a lane per warp and one per CTA for
//! asynchronous operations. Time is counted in warp instructions of the cluster; it shows order and waiting, not
//! duration on hardware.

use std::fmt::Write;

/// Events kept per cluster; what comes after is left out.
pub(crate) const LIMIT: usize = 1 << 20;

/// A stretch of execution, or the completion of an asynchronous operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What: the instruction that a warp stopped at, or the operation.
    pub name: String,
    /// Linear CTA index in the grid.
    pub cta: u32,
    /// Warp, `None` for asynchronous operations.
    pub warp: Option<u32>,
    /// Warp instructions of the cluster before it.
    pub start: u64,
    /// Warp instructions.
    pub duration: u64,
}

/// Events in Chrome's trace format: processes are CTAs, threads are warps.
pub fn chrome(events: &[Event]) -> String {
    let mut out = String::from("{\"traceEvents\":[");
    for (i, e) in events.iter().enumerate() {
        let thread = e.warp.map_or_else(|| "async".to_owned(), |w| format!("warp {w}"));
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "{}\n{{\"name\":{},\"ph\":\"X\",\"ts\":{},\"dur\":{},\"pid\":\"cta {}\",\"tid\":\"{thread}\"}}",
            if i == 0 { "" } else { "," },
            quoted(&e.name),
            e.start,
            e.duration,
            e.cta,
        );
    }
    out.push_str("\n]}\n");
    out
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_events() {
        let event =
            Event { name: "line 3: `\"a\\b`\n".to_owned(), cta: 2, warp: Some(1), start: 5, duration: 7 };
        let text = chrome(&[event.clone(), Event { warp: None, ..event }]);
        let line = |tid: &str| {
            format!(
                "{{\"name\":\"line 3: `\\\"a\\\\b` \",\"ph\":\"X\",\"ts\":5,\"dur\":7,\"pid\":\"cta 2\",\"tid\":\"{tid}\"}}"
            )
        };
        assert_eq!(text, format!("{{\"traceEvents\":[\n{},\n{}\n]}}\n", line("warp 1"), line("async")));
    }
}
