//! A warp: 32 threads, their registers, and where each of them is.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::LANES;
use crate::check::Origin;
use crate::program::Reg;

/// What happens after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// On to the next instruction.
    Next,
    /// The executing lanes jump to a code index.
    Jump(u32),
    /// The executing lanes exit.
    Exit,
    /// The executing lanes stay at this instruction and execute it again when `Wait` is over.
    Retry(Wait),
    /// The executing lanes go on to the next instruction when `Wait` is over.
    Block(Wait),
    /// On to the next instruction, after letting others run (a spin).
    Yield,
    /// The instruction failed in a way that makes going on meaningless; a finding says why.
    Abort,
}

/// What a lane waits for. Deadlock reports are built from these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Named barrier of the CTA.
    Barrier {
        /// Barrier number.
        id: u32,
    },
    /// Lanes of the warp to meet at a `.sync` instruction with a mask.
    Lanes {
        /// The lanes that must come.
        mask: u32,
    },
    /// `mbarrier.try_wait` on a shared address.
    Mbarrier {
        /// Owning CTA rank.
        cta: u32,
        /// Offset.
        offset: u32,
        /// Parity waited for.
        parity: u32,
    },
    /// Cluster barrier.
    Cluster,
    /// The warps of a warpgroup to issue the same instruction.
    Warpgroup,
    /// Completion of asynchronous operations (cp.async, bulk, wgmma, tcgen05 groups) until the engine has at
    /// most `pending` left in that group.
    Async {
        /// Which kind, for reports.
        what: &'static str,
        /// Allowed pending groups.
        pending: u32,
    },
    /// Tensor memory columns.
    TensorMemory,
    /// A register pool (`setmaxnreg.inc`).
    Registers,
    /// Something in memory that another thread must change.
    Memory,
}

/// State of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// Can execute.
    Ready,
    /// Waits, then executes the instruction at its pc again.
    Retry(Wait),
    /// Waits to be released by someone else.
    Blocked(Wait),
    /// Has exited.
    Exited,
}

/// A warp.
pub struct Warp {
    /// Index within the CTA.
    pub index: usize,
    /// Threads that exist (the last warp of a CTA may be partial).
    pub exists: u32,
    /// Program counter of each lane.
    pub pc: [u32; LANES],
    /// State of each lane.
    pub state: [LaneState; LANES],
    /// Register values, `reg * 32 + lane`; zero-extended to 64 bits.
    values: Vec<u64>,
    /// Shadow of [`Self::values`]: 0 = initialised, else where the poison came from.
    shadow: Vec<Origin>,
    /// Poisoned lanes of each register.
    dirty: Vec<u32>,
    /// Registers written since the last [`Self::forget_writes`], by whatever but wgmma.
    written: Vec<bool>,
    /// Carry flag of each lane (`add.cc`, PTX ISA 9.7.2).
    pub carry: u32,
    /// Counts `bar.warp.sync` and stronger barriers: orders the lanes of a warp among themselves.
    pub sync_epoch: u32,
    /// Lanes that yielded since the last scheduling round.
    pub yielded: u32,
    /// Lanes whose `mbarrier.try_wait` has reached its time limit: it returns false.
    pub timed_out: u32,
    /// Lanes that wait at an instruction and will execute it again: they are counted as waiting once.
    pub waiting: u32,
    /// Instructions executed (per warp, not per lane).
    pub issued: u64,
}

impl Warp {
    /// A warp at code index 0 with `registers` registers, all uninitialised.
    pub fn new(index: usize, exists: u32, registers: usize) -> Self {
        let state =
            std::array::from_fn(|l| if exists >> l & 1 == 1 { LaneState::Ready } else { LaneState::Exited });
        Self {
            index,
            exists,
            pc: [0; LANES],
            state,
            values: vec![0; registers * LANES],
            shadow: vec![Origin::UNWRITTEN_REGISTER; registers * LANES],
            dirty: vec![u32::MAX; registers],
            written: vec![false; registers],
            carry: 0,
            sync_epoch: 0,
            yielded: 0,
            timed_out: 0,
            waiting: 0,
            issued: 0,
        }
    }

    /// Lanes that have not exited.
    pub fn alive(&self) -> u32 {
        self.lanes(|s| !matches!(s, LaneState::Exited))
    }

    /// Lanes whose state satisfies `f`.
    pub fn lanes(&self, f: impl Fn(LaneState) -> bool) -> u32 {
        self.state.iter().enumerate().fold(0, |m, (l, &s)| m | u32::from(f(s)) << l)
    }

    /// Value of a register in a lane.
    #[inline(always)]
    pub fn get(&self, reg: Reg, lane: usize) -> u64 {
        self.values[reg as usize * LANES + lane]
    }

    /// All lanes of a register.
    #[inline(always)]
    pub fn row(&self, reg: Reg) -> &[u64; LANES] {
        let at = reg as usize * LANES;
        // The slice has exactly LANES elements by construction.
        self.values[at..at + LANES].try_into().unwrap_or(&[0; LANES])
    }

    /// A digest of all that decides what the warp does next, memory apart.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.pc, &self.values, &self.dirty, self.carry, self.timed_out).hash(&mut hasher);
        self.state.iter().for_each(|s| std::mem::discriminant(s).hash(&mut hasher));
        hasher.finish()
    }

    /// Whether a register has been written since the last [`Self::forget_writes`].
    pub fn is_written(&self, reg: Reg) -> bool {
        self.written[reg as usize]
    }

    /// `wgmma.fence`: writes from now on count.
    pub fn forget_writes(&mut self) {
        self.written.fill(false);
    }

    /// Writes a register in a lane with its shadow.
    #[inline(always)]
    pub fn set(&mut self, reg: Reg, lane: usize, value: u64, origin: Origin) {
        self.written[reg as usize] = true;
        self.set_unnoticed(reg, lane, value, origin);
    }

    /// [`Self::set`] by wgmma, whose own writes need no `wgmma.fence`.
    #[inline(always)]
    pub fn set_unnoticed(&mut self, reg: Reg, lane: usize, value: u64, origin: Origin) {
        let at = reg as usize * LANES + lane;
        self.values[at] = value;
        if origin != Origin::CLEAN {
            self.dirty[reg as usize] |= 1 << lane;
            self.shadow[at] = origin;
        } else {
            self.dirty[reg as usize] &= !(1 << lane);
        }
    }

    /// Writes a register in all lanes of `mask`; every lane clean.
    #[inline(always)]
    pub fn set_row(&mut self, reg: Reg, mask: u32, values: &[u64; LANES]) {
        let at = reg as usize * LANES;
        let row = &mut self.values[at..at + LANES];
        self.dirty[reg as usize] &= !mask;
        self.written[reg as usize] = true;
        if mask == u32::MAX {
            row.copy_from_slice(values);
            return;
        }
        for lane in 0..LANES {
            row[lane] = if mask >> lane & 1 == 1 { values[lane] } else { row[lane] };
        }
    }

    /// Shadow of a register in a lane.
    #[inline(always)]
    pub fn origin(&self, reg: Reg, lane: usize) -> Origin {
        if self.dirty[reg as usize] >> lane & 1 == 1 {
            self.shadow[reg as usize * LANES + lane]
        } else {
            Origin::CLEAN
        }
    }

    /// Whether any lane of the register is poisoned.
    #[inline(always)]
    pub fn is_dirty(&self, reg: Reg) -> bool {
        self.dirty[reg as usize] != 0
    }

    /// The poisoned lanes of the register.
    #[inline(always)]
    pub fn dirty_lanes(&self, reg: Reg) -> u32 {
        self.dirty[reg as usize]
    }
}

impl Warp {
    /// Makes lanes ready again whose wait satisfies `f`; blocked ones go on behind their instruction.
    pub fn wake(&mut self, f: impl Fn(Wait) -> bool) {
        for lane in 0..LANES {
            match self.state[lane] {
                LaneState::Blocked(wait) if f(wait) => {
                    self.state[lane] = LaneState::Ready;
                    self.pc[lane] += 1;
                }
                LaneState::Retry(wait) if f(wait) => self.state[lane] = LaneState::Ready,
                _ => {}
            }
        }
    }
}
