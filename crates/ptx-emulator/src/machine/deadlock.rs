//! When no thread can run: time limits of waits, and the report of a deadlock.

use super::LANES;
use super::launch::{Environment, Runner};
use super::warp::{LaneState, Wait};
use crate::check::{Class, Finding};

/// Where every waiting lane waits: (cta, warp, lane, pc, wait).
pub(super) type Waits = Vec<(usize, usize, usize, u32, Wait)>;

impl Runner {
    /// When nothing can run, `mbarrier.try_wait`s reach their time limit and return false: code that only peeks
    /// goes on, a loop comes back to the same wait. `false` if all threads have been in the same waits before,
    /// and nothing has happened since: a deadlock.
    pub(super) fn time_out(&mut self) -> bool {
        let mut waits = Vec::new();
        for (c, cta) in self.cluster.ctas.iter().enumerate() {
            for warp in &cta.warps {
                for lane in 0..LANES {
                    if let LaneState::Retry(wait) | LaneState::Blocked(wait) = warp.state[lane] {
                        waits.push((c, warp.index, lane, warp.pc[lane], wait));
                    }
                }
            }
        }
        let events = self.cluster.state.sync.events;
        if self.timed_out.0 != events {
            self.timed_out = (events, Vec::new());
        }
        if self.timed_out.1.contains(&waits) {
            return false;
        }
        let mut any = false;
        for &(c, w, lane, _, wait) in &waits {
            if matches!(wait, Wait::Mbarrier { .. }) {
                let warp = &mut self.cluster.ctas[c].warps[w];
                warp.state[lane] = LaneState::Ready;
                warp.timed_out |= 1 << lane;
                any = true;
            }
        }
        self.timed_out.1.push(waits);
        any
    }

    /// Reports that nothing can run, or that all that runs spins; `more` says what else there is to know.
    pub(super) fn deadlock(&mut self, env: &Environment<'_>, more: &str) {
        let mut waits: Vec<(Option<Wait>, u32, usize, u32, u32)> = Vec::new();
        for (rank, cta) in self.cluster.ctas.iter().enumerate() {
            for warp in &cta.warps {
                for lane in 0..LANES {
                    let (wait, pc) = match warp.state[lane] {
                        LaneState::Retry(wait) | LaneState::Blocked(wait) => (Some(wait), warp.pc[lane]),
                        // It stands behind the access that it spins on.
                        LaneState::Ready => (None, warp.pc[lane].saturating_sub(1)),
                        LaneState::Exited => continue,
                    };
                    let thread = (warp.index * LANES + lane) as u32;
                    match waits.iter_mut().find(|w| w.0 == wait && w.1 == pc && w.2 == rank) {
                        Some(w) => w.4 += 1,
                        None => waits.push((wait, pc, rank, thread, 1)),
                    }
                }
            }
        }
        let in_flight = self.cluster.engine.describe();
        for (wait, pc, rank, thread, count) in waits {
            let cta = self.cluster.ctas[rank].linear;
            let mut message = match wait {
                Some(wait) => {
                    let state = self.cluster.state.describe_wait(&self.cluster.ctas, rank, wait);
                    format!("deadlock: {count} thread(s) wait for {state}")
                }
                None => {
                    format!("deadlock: {count} thread(s) spin, and nothing that they see changes any more")
                }
            };
            if !in_flight.is_empty() {
                message.push_str(&format!("; in flight: {}", in_flight.join(", ")));
            }
            message.push_str(more);
            let place = env.place(pc, cta, thread);
            self.cluster.report.add(Finding {
                class: Class::Deadlock,
                place,
                message,
                earlier: None,
                count: 1,
            });
        }
        self.cluster.aborted = true;
    }
}
