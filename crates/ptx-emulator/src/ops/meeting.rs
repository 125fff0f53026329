//! How the lanes of a warp meet at a `.sync` instruction with a member mask (PTX ISA 9.7.13.2 and the `.sync`
//! forms of shfl, vote, match, redux).
//!
//! Lanes may come diverged, and lanes that execute together may have different masks. Those of a mask wait
//! until every lane in it that has not exited is there.

use crate::check::Class;
use crate::decode::Src;
use crate::machine::{Ctx, LANES, LaneState, Wait, Warp};

/// Where the lanes of a mask may wait for each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// At the same instruction.
    Here,
    /// At any instruction of that kind (`bar.warp.sync`); nothing else may use this.
    Anywhere,
}

/// Groups of lanes that go on; there is rarely more than one.
pub(super) struct Groups {
    first: Option<u32>,
    others: Vec<u32>,
}

impl IntoIterator for Groups {
    type Item = u32;
    type IntoIter = std::iter::Chain<std::option::IntoIter<u32>, std::vec::IntoIter<u32>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.others)
    }
}

/// Lets the executing lanes meet. Returns the groups of lanes that go on; `ctx.mask` is then the union of
/// them: lanes that have to wait have been taken out, and lanes that waited here have been added.
pub(super) fn meet(ctx: &mut Ctx<'_>, member: Src, at: Where) -> Groups {
    let alive = ctx.warp.alive();
    if let Src::Imm(mask) = member
        && ctx.mask == mask as u32 & alive
    {
        return Groups { first: Some(ctx.mask), others: Vec::new() };
    }
    for lane in each(ctx.dirty_lanes(&[member])) {
        let origin = ctx.origin(member, lane);
        ctx.report_poison(origin, lane, "a member mask");
    }
    let masks = ctx.row(member).map(|m| m as u32);
    let mut left = ctx.mask;
    let mut groups = Vec::new();
    ctx.mask = 0;
    while left != 0 {
        let lane = left.trailing_zeros() as usize;
        let mask = masks[lane];
        let group = (0..LANES).fold(0u32, |g, l| g | u32::from(left >> l & 1 == 1 && masks[l] == mask) << l);
        left &= !group;
        let strangers = group & !mask;
        if strangers != 0 {
            let message = format!("lanes {strangers:#010x} execute it, but the member mask is {mask:#010x}");
            ctx.finding(Class::Undefined, strangers.trailing_zeros() as usize, message, None);
        }
        let wait = LaneState::Retry(Wait::Lanes { mask });
        let waiting = ctx.warp.lanes(|s| s == wait) & !group;
        let here = (0..LANES)
            .fold(0u32, |h, l| h | u32::from(waiting >> l & 1 == 1 && ctx.warp.pc[l] == ctx.pc) << l);
        let come = group | if at == Where::Here { here } else { waiting };
        let missing = mask & alive & !come;
        if missing != 0 {
            for l in (0..LANES).filter(|l| group >> l & 1 == 1) {
                ctx.warp.state[l] = wait;
            }
            continue;
        }
        for l in (0..LANES).filter(|l| (come & waiting) >> l & 1 == 1) {
            ctx.warp.state[l] = LaneState::Ready;
            if here >> l & 1 == 0 {
                ctx.warp.pc[l] += 1;
            }
        }
        ctx.mask |= group | here & come;
        groups.push(come);
    }
    Groups { first: None, others: groups }
}

/// Lanes have exited: the others look again whether all are there.
pub(super) fn on_exit(warp: &mut Warp) {
    warp.wake(|wait| matches!(wait, Wait::Lanes { .. }));
}

/// The lanes of a set.
pub(super) fn each(lanes: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |l| lanes >> l & 1 == 1)
}
