//! The remaining kernels of `data/ptx-mutants`: a barrier that is missing, shared memory that nobody wrote, a small wgmma.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, only, schedules, text};
use ptx_emulator::check::{Class, Finding};
use ptx_emulator::machine::{Argument, Schedule};

/// Runs with `pointers` buffers of 2 KiB, the last of which is returned.
fn run(source: &str, threads: u32, pointers: usize, schedule: Schedule) -> (Vec<Finding>, Vec<u32>) {
    let mut k = Kernel::new(source, threads).schedule(schedule);
    let buffers: Vec<u64> = (0..pointers).map(|_| k.allocate(2048)).collect();
    let arguments: Vec<Argument> = buffers.iter().map(|&b| Argument::B64(b)).collect();
    let findings = k.run(&arguments);
    (findings, k.u32s(buffers[pointers - 1], 512))
}

#[test]
fn missing_barrier() {
    for schedule in schedules() {
        let (found, out) = run(include_str!("data/ptx-mutants/ok.ptx"), 64, 1, schedule);
        assert!(found.is_empty(), "{schedule:?}\n{}", text(&found));
        assert!(out.iter().take(64).enumerate().all(|(i, &w)| w == i as u32 ^ 33), "{schedule:?}");
        // Whichever warp comes first reads what the other has not written yet: both are true then.
        let (found, _) = run(include_str!("data/ptx-mutants/race.ptx"), 64, 1, schedule);
        assert!(found.iter().any(|f| f.class == Class::Race), "{schedule:?}\n{}", text(&found));
        assert!(
            found.iter().all(|f| matches!(f.class, Class::Race | Class::Uninitialised)),
            "{}",
            text(&found)
        );
    }
}

#[test]
fn uninitialised() {
    for schedule in schedules() {
        let (found, _) = run(include_str!("data/ptx-mutants/uninit.ptx"), 64, 2, schedule);
        let found = only(&found, Class::Uninitialised);
        assert!(found.earlier.as_ref().is_some_and(|e| e.what.contains("shared")), "{found}");
    }
}

#[test]
fn small_wgmma() {
    for schedule in schedules() {
        let (found, _) = run(include_str!("data/ptx-mutants/wg.ptx"), 128, 1, schedule);
        assert!(found.is_empty(), "{schedule:?}\n{}", text(&found));
    }
}
