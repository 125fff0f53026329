//! The seeded faults of `data/ptx-mutants` that concern copies and mbarriers.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, only, schedules, text};
use ptx_emulator::check::Class;
use ptx_emulator::machine::{Argument, Schedule};

const OK: &str = include_str!("data/ptx-mutants/tma_ok.ptx");
const SHORT: &str = include_str!("data/ptx-mutants/tma_short.ptx");
const NOWAIT: &str = include_str!("data/ptx-mutants/tma_nowait.ptx");
const PROXY_OK: &str = include_str!("data/ptx-mutants/proxy_ok.ptx");
const PROXY_MISSING: &str = include_str!("data/ptx-mutants/proxy_missing.ptx");

fn kernel(source: &str, schedule: Schedule) -> (Kernel, u64, [Argument; 2]) {
    let mut k = Kernel::new(source, 64).schedule(schedule);
    let data: Vec<u32> = (0..64).map(|i| i * 3 + 1).collect();
    let (src, out) = (k.upload_u32(&data), k.allocate(256));
    (k, out, [Argument::B64(src), Argument::B64(out)])
}

#[test]
fn bulk_load() {
    for schedule in schedules() {
        let (k, out, arguments) = kernel(OK, schedule);
        let found = k.run(&arguments);
        assert!(found.is_empty(), "{}", text(&found));
        assert_eq!(k.u32s(out, 64), (0..64).map(|i| i * 3 + 1).collect::<Vec<u32>>());
        let (k, _, arguments) = kernel(SHORT, schedule);
        let found = k.run(&arguments);
        assert!(only(&found, Class::Deadlock).message.contains("256 bytes pending"), "{}", text(&found));
    }
    // Nobody looks at the answer of the wait: threads read what the copy has not written, unless it was faster.
    let slow = [
        Schedule::RoundRobin,
        Schedule::LowestWarpFirst,
        Schedule::HighestWarpFirst,
        Schedule::AsyncLate,
        Schedule::AsyncReversed,
    ];
    for schedule in slow {
        let (k, _, arguments) = kernel(NOWAIT, schedule);
        let found = k.run(&arguments);
        let right = |c: Class| {
            // The CTA may even exit before the copy has written.
            matches!(c, Class::Uninitialised | Class::Race | Class::ProxyRace | Class::UseAfterFree)
        };
        assert!(!found.is_empty() && found.iter().all(|f| right(f.class)), "{schedule:?} {}", text(&found));
    }
}

#[test]
fn bulk_store() {
    for source in [PROXY_OK, PROXY_MISSING] {
        for schedule in schedules() {
            let (k, out, arguments) = kernel(source, schedule);
            let found = k.run(&arguments);
            // The missing fence shows in no result, only to the race detector.
            assert!(found.iter().all(|f| f.class == Class::ProxyRace), "{}", text(&found));
            assert_eq!(found.is_empty(), source == PROXY_OK, "{schedule:?}");
            assert_eq!(k.u32s(out, 64), (0..64).collect::<Vec<u32>>());
        }
    }
}
