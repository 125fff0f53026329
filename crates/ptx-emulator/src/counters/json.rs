//! Counters as JSON.

use super::{Class, Counter, Counters, Line};
use crate::trace::quoted;

impl Counters {
    /// As JSON, every counter there, names stable:
    ///
    /// `warp_instructions`, `lane_instructions`, `counters` (by [`Counter::name`]), `mix` (for each
    /// [`Class::name`] `warp` and `lane`), `mma` (a list of `kind`, `m`, `n`, `k`, `issued`, `multiply_adds`), `lines`
    /// (those executed: `line`, `text`, `class` and the fields of [`super::Site`]).
    pub fn to_json(&self) -> String {
        let object = |items: Vec<String>| format!("{{\n    {}\n  }}", items.join(",\n    "));
        let list = |items: Vec<String>| match items.is_empty() {
            true => "[]".to_owned(),
            false => format!("[\n    {}\n  ]", items.join(",\n    ")),
        };
        let counters = Counter::ALL.iter().map(|&c| format!("\"{}\": {}", c.name(), self.get(c))).collect();
        let mix = |&(name, class): &(&str, Class)| {
            let (warp, lane) = self.of_class(class);
            format!("\"{name}\": {{ \"warp\": {warp}, \"lane\": {lane} }}")
        };
        let mma = |((kind, [m, n, k]), issued): (&(String, [u32; 3]), &u64)| {
            let macs = u64::from(*m) * u64::from(*n) * u64::from(*k) * issued;
            format!(
                "{{ \"kind\": {}, \"m\": {m}, \"n\": {n}, \"k\": {k}, \"issued\": {issued}, \"multiply_adds\": {macs} }}",
                quoted(kind)
            )
        };
        let line = |l: &Line| {
            let s = &l.site;
            let fields = [
                ("executed", s.executed),
                ("lanes", s.lanes),
                ("diverged", s.diverged),
                ("bytes", s.bytes),
                ("sectors", s.sectors),
                ("wavefronts", s.wavefronts),
                ("wavefronts_minimum", s.wavefronts_minimum),
                ("blocked", s.blocked),
            ];
            let fields: Vec<String> = fields.iter().map(|(name, n)| format!("\"{name}\": {n}")).collect();
            format!(
                "{{ \"line\": {}, \"text\": {}, \"class\": \"{}\", {} }}",
                l.line,
                quoted(&l.text),
                l.class.name(),
                fields.join(", ")
            )
        };
        format!(
            "{{\n  \"warp_instructions\": {},\n  \"lane_instructions\": {},\n  \"counters\": {},\n  \"mix\": {},\n  \
             \"mma\": {},\n  \"lines\": {}\n}}\n",
            self.warp_instructions,
            self.lane_instructions,
            object(counters),
            object(Class::ALL.iter().map(mix).collect()),
            list(self.mma.iter().map(mma).collect()),
            list(self.lines.iter().filter(|l| l.site.executed > 0).map(line).collect()),
        )
    }
}
