//! `setmaxnreg` (PTX ISA 9.7.19.5): the register pool of a CTA.
//!
//! The pool starts empty: all registers belong to the warps. What a warp starts with comes from `.maxnreg`, or
//! from `.minnctapersm` with `.maxntid` or `.reqntid`; without those the instruction has no effect on hardware,
//! which is a finding.

use super::{Entry, root};
use crate::check::{Access, Class, Mode, Place};
use crate::decode::{Decoder, Execute, Op, Result};
use crate::machine::{Ctx, Flow, LANES, Wait};
use crate::program::Program;

pub(super) const TABLE: &[Entry] = &[root("setmaxnreg", decode)];

/// Registers of a multiprocessor.
const REGISTERS: u32 = 65_536;

#[derive(Clone, Default)]
struct Pool {
    /// Free registers.
    free: u32,
    /// Registers per thread of each warp; 0 = not known yet.
    warps: Vec<u32>,
    /// The instruction that each warpgroup is at: pc, warps that have executed it, the first place.
    groups: Vec<Option<(u32, u32, Place)>>,
}

/// The pools of all CTAs.
#[derive(Default)]
pub(super) struct RegisterPools {
    ctas: Vec<Pool>,
}

impl RegisterPools {
    pub(super) fn new(ctas: usize, warps: usize) -> Self {
        let pool = Pool { free: 0, warps: vec![0; warps], groups: vec![None; warps.div_ceil(4)] };
        Self { ctas: vec![pool; ctas] }
    }

    /// For deadlock reports.
    pub(super) fn describe(&self, cta: usize) -> String {
        format!("registers: {} free in the CTA's pool", self.ctas[cta].free)
    }
}

/// Registers per thread at the start, if the kernel fixes them.
fn initial(program: &Program) -> Option<u32> {
    let find = |name: &str| {
        let values = program.directives.iter().find(|(n, _)| n == name).map(|(_, v)| v)?;
        Some(values.iter().filter_map(|v| v.parse::<u32>().ok()).product::<u32>())
    };
    if let Some(n) = find("maxnreg") {
        return Some(n);
    }
    let threads = find("reqntid").or_else(|| find("maxntid"))?.next_multiple_of(LANES as u32).max(1);
    let ctas = find("minnctapersm")?.max(1);
    Some((REGISTERS / threads.saturating_mul(ctas).max(1) / 8 * 8).min(255))
}

struct SetMaxNReg {
    increase: bool,
    count: u32,
}

impl Execute for SetMaxNReg {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let lane = ctx.mask.trailing_zeros() as usize;
        let Some(initial) = initial(ctx.program()) else {
            let message = "has no effect: the kernel gives no register count (.maxnreg, or .minnctapersm with \
                           .maxntid or .reqntid)";
            ctx.finding(Class::Undefined, lane, message.to_owned(), None);
            return Flow::Next;
        };
        let (warp, place) = (ctx.warp.index, ctx.place(lane));
        let warps = ctx.cluster.ctas[ctx.cta].warps.len();
        let pool = &mut ctx.cluster.state.sync.registers.ctas[ctx.cta];
        let current = if pool.warps[warp] == 0 { initial } else { pool.warps[warp] };
        let (wrong, change) = match self.increase {
            true => (self.count < current, self.count.saturating_sub(current)),
            false => (self.count > current, current.saturating_sub(self.count)),
        };
        let change = change * LANES as u32;
        if self.increase && pool.free < change {
            return Flow::Retry(Wait::Registers);
        }
        if self.increase {
            pool.free -= change;
        } else {
            pool.free += change;
        }
        if !wrong {
            pool.warps[warp] = self.count;
        }
        // All warps of a warpgroup execute the same instruction before any of them executes another.
        let first = warp / 4 * 4;
        let whole = (first..warps.min(first + 4)).fold(0u32, |m, w| m | 1 << w);
        let mut conflict = None;
        let done = match &pool.groups[warp / 4] {
            Some((pc, done, _)) if *pc == ctx.pc => *done | 1 << warp,
            Some((_, _, place)) => {
                conflict =
                    Some(Access { place: place.clone(), what: "setmaxnreg of another warp".to_owned() });
                1 << warp
            }
            None => 1 << warp,
        };
        pool.groups[warp / 4] = (done != whole).then_some((ctx.pc, done, place));
        if !self.increase {
            ctx.cluster.state.sync.events += 1;
            ctx.cluster.wake(ctx.cta, |w| w == Wait::Registers);
        }
        if wrong {
            let word = if self.increase { "more" } else { "less" };
            let message =
                format!("the warp has {word} than {} registers per thread already: {current}", self.count);
            ctx.finding(Class::Undefined, lane, message, None);
        }
        // The ISA wants one instruction of a warpgroup; compilers give each warp its own.
        if conflict.is_some() && ctx.checks().mode == Mode::StrictPtx {
            let message = "the warps of a warpgroup execute different setmaxnreg".to_owned();
            ctx.finding(Class::Undefined, lane, message, conflict);
        }
        Flow::Next
    }

    fn is_aligned(&self) -> bool {
        true
    }
}

/// `setmaxnreg.{inc,dec}.sync.aligned.u32 n`.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    let increase = d.need_one("inc or dec", &[("inc", true), ("dec", false)])?;
    d.need_one(".sync", &[("sync", ())])?;
    d.need_one(".aligned", &[("aligned", ())])?;
    d.need_one(".u32", &[("u32", ())])?;
    let count = d.imm(0)?;
    d.finish(1)?;
    match u32::try_from(count) {
        Ok(count @ 24..=256) if count % 8 == 0 => Ok(Box::new(SetMaxNReg { increase, count })),
        _ => d.error("the count must be a multiple of 8 in 24..=256"),
    }
}
