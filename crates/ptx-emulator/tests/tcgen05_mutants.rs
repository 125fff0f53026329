//! The seeded faults of `data/ptx-mutants` that concern tensor memory: each is reported, under its name, under every
//! schedule that can show it.
//!
//! As written, `nv_ok` and its mutants have a matrix descriptor that hardware would not take. They run here as they
//! are (that is reported) and with the right descriptors (then only the seeded fault is).
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{Kernel, schedules, text};
use ptx_emulator::check::{Class, Finding};
use ptx_emulator::machine::{Argument, Schedule};

const OK: &str = include_str!("data/ptx-mutants/nv_ok.ptx");

/// LBO 128, SBO 256, version 1, no swizzle: rows of 32 bytes in groups of eight, two 16-byte columns.
const OPERAND: u64 = 1 << 46 | (256 >> 4) << 32 | (128 >> 4) << 16;
/// SBO 128: an atom of 32 rows of 16 bytes.
const SCALES: u64 = 1 << 46 | (128 >> 4) << 32;

/// With descriptors that name an unswizzled 128x64 tile of FP4 values and its scales.
fn repaired(source: &str) -> String {
    let text =
        source.replace("70643624607744", &OPERAND.to_string()).replace("70437464178688", &SCALES.to_string());
    assert_ne!(text, source);
    text
}

fn run(source: &str, schedule: Schedule) -> (Vec<Finding>, Vec<u32>) {
    let mut k = Kernel::new(source, 128).schedule(schedule);
    let out = k.allocate(128 * 8);
    let findings = k.run(&[Argument::B64(out)]);
    (findings, k.u32s(out, 256))
}

fn classes(findings: &[Finding]) -> BTreeSet<Class> {
    findings.iter().map(|f| f.class).collect()
}

#[test]
fn as_written() {
    for schedule in schedules() {
        let (found, _) = run(OK, schedule);
        let expected = BTreeSet::from([Class::Descriptor, Class::Uninitialised]);
        assert_eq!(classes(&found), expected, "{schedule:?}\n{}", text(&found));
        assert!(found.iter().any(|f| f.message.contains("reserved bits 14..16")), "{}", text(&found));
    }
}

#[test]
fn repaired_is_clean() {
    let source = repaired(OK);
    for schedule in schedules() {
        let (found, out) = run(&source, schedule);
        assert!(found.is_empty(), "{schedule:?}\n{}", text(&found));
        // 0x22 = two E2M1 ones, 0x38 = one in UE4M3: 64 times 1 * 1.
        assert!(out.iter().all(|&w| w == 64f32.to_bits()), "{schedule:?}: {:?}", &out[..4]);
    }
}

/// The mutant is reported as `class` under every schedule, and as nothing else but `consequences`.
#[track_caller]
fn reported(source: &str, class: Class, consequences: &[Class]) {
    let source = repaired(source);
    for schedule in schedules() {
        let (found, _) = run(&source, schedule);
        let mut classes = classes(&found);
        assert!(classes.remove(&class), "{schedule:?}: not {class:?}\n{}", text(&found));
        assert!(
            classes.iter().all(|c| consequences.contains(c)),
            "{schedule:?}: {classes:?}\n{}",
            text(&found)
        );
        let earlier = found.iter().filter_map(|f| f.earlier.as_ref());
        assert!(earlier.clone().all(|e| e.place.line > 0), "{}", text(&found));
    }
}

#[test]
fn no_commit() {
    reported(include_str!("data/ptx-mutants/nv_nocommit.ptx"), Class::Deadlock, &[]);
}

#[test]
fn no_wait() {
    reported(
        include_str!("data/ptx-mutants/nv_nowait.ptx"),
        Class::Race,
        &[Class::Tcgen05Order, Class::Uninitialised, Class::UseAfterFree],
    );
}

#[test]
fn dealloc_race() {
    reported(
        include_str!("data/ptx-mutants/nv_dealloc_race.ptx"),
        Class::Race,
        &[Class::Uninitialised, Class::UseAfterFree],
    );
}

#[test]
fn no_dealloc() {
    reported(include_str!("data/ptx-mutants/nv_nodealloc.ptx"), Class::TensorAlloc, &[]);
}

#[test]
fn no_initial_barrier() {
    let source = repaired(include_str!("data/ptx-mutants/nv_no_initial_barrier.ptx"));
    for schedule in schedules() {
        let (found, _) = run(&source, schedule);
        let classes = classes(&found);
        // Where the last warp runs first it takes what nobody has written for the address and the mbarrier, and the
        // run ends there.
        let unwritten = classes.contains(&Class::Uninitialised) && classes.contains(&Class::Mbarrier);
        assert!(classes.contains(&Class::Race) || unwritten, "{schedule:?}\n{}", text(&found));
    }
}

#[test]
fn no_proxy_fence() {
    reported(include_str!("data/ptx-mutants/nv_noproxyfence.ptx"), Class::ProxyRace, &[]);
}

#[test]
fn no_tcgen05_fences() {
    reported(include_str!("data/ptx-mutants/nv_no_tcgen05_fences.ptx"), Class::Tcgen05Order, &[]);
}

#[test]
fn no_wait_for_loads() {
    reported(include_str!("data/ptx-mutants/nv_nowaitld.ptx"), Class::Race, &[]);
}

/// Each `tcgen05.fence` that orders something is missed by itself.
#[test]
fn single_fences() {
    let before = " tcgen05.fence::before_thread_sync;\n";
    let after = " tcgen05.fence::after_thread_sync;\n";
    // The first pair stands around the allocation, which every thread learns of through shared memory.
    for (fence, occurrence) in [(before, 1), (after, 1), (after, 2)] {
        let at = OK.match_indices(fence).nth(occurrence).unwrap().0;
        let source = format!("{}{}", &OK[..at], &OK[at + fence.len()..]);
        reported(&source, Class::Tcgen05Order, &[]);
    }
}

/// A commit covers the operations of its own thread only.
#[test]
fn commit_of_another_thread() {
    let commit = " tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r2];\n";
    let source = OK
        .replace(commit, "")
        .replace("WAITL:\n", &format!("WAITL:\n setp.eq.u32 %p6, %r1, 32;\n @%p6{commit}"));
    let consequences = [Class::Tcgen05Order, Class::Uninitialised, Class::UseAfterFree];
    reported(&source, Class::Race, &consequences);
}
