//! A cluster: the unit that runs on one host thread.

use super::asynchronous::Engine;
use super::cta::Cta;
use crate::check::Report;
use crate::ops::State;

/// CTAs that run together, with everything they share.
pub struct Cluster {
    /// Index in the grid of clusters.
    pub index: [u32; 3],
    /// CTAs by rank.
    pub ctas: Vec<Cta>,
    /// Asynchronous operations in flight.
    pub engine: Engine,
    /// Findings.
    pub report: Report,
    /// State owned by instruction families (cluster barrier, groups, tensor memory, wgmma, race detector).
    pub state: State,
    /// Counters.
    pub counters: crate::counters::Counters,
    /// Events, if the launch is traced.
    pub trace: Option<Vec<crate::trace::Event>>,
    /// Counts what changes memory: as long as it stands, a spin sees nothing new.
    pub changes: u64,
    /// Set by [`super::Flow::Abort`]: the cluster stops.
    pub aborted: bool,
}

impl Cluster {
    /// Makes lanes of a CTA ready again whose wait satisfies `f`: blocked lanes go on behind their instruction,
    /// retrying lanes execute it again. A warp that is executing at the moment is not in the CTA: instructions
    /// wake their own warp through [`super::Warp::wake`].
    pub fn wake(&mut self, cta: usize, f: impl Fn(super::Wait) -> bool) {
        for warp in &mut self.ctas[cta].warps {
            warp.wake(&f);
        }
    }

    /// [`Self::wake`] for every CTA.
    pub fn wake_all(&mut self, f: impl Fn(super::Wait) -> bool) {
        for cta in 0..self.ctas.len() {
            self.wake(cta, &f);
        }
    }
}
