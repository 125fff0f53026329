//! Counters as a table for people.

use super::{Class, Counter, Counters, Line, Site, Unit};

/// Lines in each list of lines.
const TOP: usize = 8;
/// Characters of an instruction in the table.
const TEXT: usize = 64;

/// A number with a prefix, four places at most.
fn scaled(n: u64, step: f64, prefixes: &[&str]) -> String {
    let (mut value, mut at) = (n as f64, 0);
    while value >= step && at + 1 < prefixes.len() {
        value /= step;
        at += 1;
    }
    if at == 0 { format!("{n} {}", prefixes[0]) } else { format!("{value:.2} {}", prefixes[at]) }
}

/// A value in its unit.
fn human(n: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => scaled(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"]),
        Unit::Count => scaled(n, 1000.0, &["", "k", "M", "G", "T"]),
    }
    .trim_end()
    .to_owned()
}

fn row(out: &mut String, name: &str, n: u64, unit: Unit, note: &str) {
    out.push_str(format!("  {name:<36} {n:>16}  {:<11} {note}", human(n, unit)).trim_end());
    out.push('\n');
}

impl Counters {
    /// What a counter means beside its neighbours.
    fn note(&self, counter: Counter) -> String {
        let get = |c| self.get(c);
        let efficiency = |bytes: u64| {
            let n = get(counter);
            format!("{:.0} % of the bytes in them asked for", 100.0 * bytes as f64 / (32 * n) as f64)
        };
        let conflicts = |minimum: u64| match get(counter) - minimum {
            0 => "no bank conflicts".to_owned(),
            more => format!("{more} more than without bank conflicts"),
        };
        match counter {
            _ if get(counter) == 0 => String::new(),
            Counter::GlobalLoadSectors => efficiency(get(Counter::GlobalLoadBytes)),
            Counter::GlobalStoreSectors => efficiency(get(Counter::GlobalStoreBytes)),
            Counter::GlobalAtomicSectors => efficiency(get(Counter::GlobalAtomicBytes)),
            Counter::CpAsyncSectors => efficiency(get(Counter::CpAsyncBytes)),
            Counter::TensorLoadSectors => efficiency(get(Counter::TensorLoadBytes)),
            Counter::SharedLoadWavefronts => conflicts(get(Counter::SharedLoadMinimum)),
            Counter::SharedStoreWavefronts => conflicts(get(Counter::SharedStoreMinimum)),
            Counter::SharedAtomicWavefronts => conflicts(get(Counter::SharedAtomicMinimum)),
            Counter::LdMatrixWavefronts => conflicts(get(Counter::LdMatrixMinimum)),
            Counter::StMatrixWavefronts => conflicts(get(Counter::StMatrixMinimum)),
            _ => String::new(),
        }
    }

    fn top_table(&self, out: &mut String, title: &str, key: impl Fn(&Site) -> u64) {
        let top: Vec<&Line> = self.top(TOP, &key);
        if top.is_empty() {
            return;
        }
        out.push_str(&format!("{title}\n"));
        for line in top {
            let text: String = line.text.chars().take(TEXT).collect();
            out.push_str(&format!("  {:>14}  line {:<6} {text}\n", key(&line.site), line.line));
        }
    }

    /// As a table; what is 0 is left out.
    pub fn to_table(&self) -> String {
        let mut out = String::from("instructions\n");
        row(&mut out, "warp", self.warp_instructions, Unit::Count, "");
        let per = self.lane_instructions as f64 / self.warp_instructions.max(1) as f64;
        row(&mut out, "lane", self.lane_instructions, Unit::Count, &format!("{per:.1} lanes each"));
        let all = self.warp_instructions.max(1) as f64;
        for (name, class) in Class::ALL {
            let (warp, _) = self.of_class(class);
            if warp > 0 {
                let note = format!("{:.1} %", 100.0 * warp as f64 / all);
                row(&mut out, name, warp, Unit::Count, &note);
            }
        }
        if !self.mma.is_empty() {
            out.push_str("mma\n");
            for ((kind, [m, n, k]), issued) in &self.mma {
                row(&mut out, &format!("{kind} m{m}n{n}k{k}"), *issued, Unit::Count, "");
            }
            let macs = self.multiply_adds();
            row(&mut out, "multiply-adds", macs, Unit::Count, "");
            let issue =
                format!("{:.1} warp instructions for each MMA", all / self.mma.values().sum::<u64>() as f64);
            out.push_str(&format!("  {issue}\n"));
        }
        out.push_str("counters\n");
        for &counter in Counter::ALL.iter().filter(|&&c| self.get(c) > 0) {
            row(&mut out, counter.name(), self.get(counter), counter.unit(), &self.note(counter));
        }
        self.top_table(&mut out, "most executed, in warp instructions", |s| s.executed);
        self.top_table(&mut out, "most bytes", |s| s.bytes);
        self.top_table(&mut out, "bank conflicts, in wavefronts", |s| s.wavefronts - s.wavefronts_minimum);
        self.top_table(&mut out, "waits that blocked", |s| s.blocked);
        out
    }
}
