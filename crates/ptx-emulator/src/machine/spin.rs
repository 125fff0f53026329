//! Spins that nothing ends: threads read a location again and again that nobody will write any more.
//!
//! A warp whose registers and places are what they were before, while no memory has changed in between, does the
//! same forever. When this holds for every warp that can run, the grid is stuck. (A loop that counts, or reads a
//! clock, is never the same.)

use std::collections::HashMap;

use super::launch::Runner;
use super::warp::LaneState;

/// Steps without a change of memory after which warps that gave up their turn are watched, and after which all are.
const QUIET: [u64; 2] = [1 << 8, 1 << 16];

/// A warp: cluster number, CTA rank, warp.
type Key = (usize, usize, usize);

/// What warps did since memory changed last.
#[derive(Default)]
pub(super) struct Spins {
    /// Changes of memory, and events of synchronisation, when last looked at.
    changes: u64,
    /// Rounds since then.
    quiet: u64,
    /// Digests of what warps were in, and whether one has come back.
    seen: HashMap<Key, (Vec<u64>, bool)>,
}

impl Spins {
    /// Starts anew.
    pub(super) fn forget(&mut self) {
        self.quiet = 0;
        self.seen.clear();
    }

    /// After a step of every cluster: whether all that can run spins.
    pub(super) fn stuck(&mut self, running: &[Runner]) -> bool {
        let changes = running.iter().map(|r| r.cluster.changes + r.cluster.state.sync.events).sum();
        if changes != self.changes {
            self.changes = changes;
            self.forget();
            return false;
        }
        self.quiet += 1;
        if self.quiet < QUIET[0] {
            return false;
        }
        for runner in running {
            let Some((cta, warp, gave_up)) = runner.last else { continue };
            if !gave_up && self.quiet < QUIET[1] {
                continue;
            }
            let (digests, spins) = self.seen.entry((runner.number, cta, warp)).or_default();
            if !*spins {
                let digest = runner.cluster.ctas[cta].warps[warp].digest();
                *spins = digests.contains(&digest);
                digests.push(digest);
            }
        }
        let mut any = false;
        for runner in running.iter().filter(|r| !r.finished()) {
            for (c, cta) in runner.cluster.ctas.iter().enumerate() {
                for (w, warp) in cta.warps.iter().enumerate() {
                    if warp.lanes(|s| matches!(s, LaneState::Ready)) == 0 {
                        continue;
                    }
                    any = true;
                    if !self.seen.get(&(runner.number, c, w)).is_some_and(|s| s.1) {
                        return false;
                    }
                }
            }
            if !runner.cluster.engine.is_empty() {
                return false;
            }
        }
        any
    }
}
