//! Warp-level instructions, with lanes that come together and lanes that come diverged.

mod common;

use common::{Kernel, entry, only, schedules, text};
use ptx_emulator::check::Class;
use ptx_emulator::machine::{Argument, Schedule};

/// Runs `body` in one warp of `threads`: %r0 = lane, result in %r1; %rd1 points to the lane's word.
fn lanes(threads: u32, body: &str) -> Vec<u32> {
    let (kernel, out) = prepare(threads, body);
    kernel.run_clean(&[out]);
    kernel.u32s(out, threads as usize)
}

fn prepare(threads: u32, body: &str) -> (Kernel, u64) {
    let source = entry(
        ".param .u64 out",
        &format!(
            "mov.u32 %r0, %laneid; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2;\n\
             {body}\nst.global.u32 [%rd1], %r1;"
        ),
    );
    let mut kernel = Kernel::new(&source, threads);
    let out = kernel.allocate(threads as usize * 4);
    (kernel, out)
}

#[test]
fn shuffles() {
    // The definition of the ISA.
    let source = |mode: &str, lane: i32, b: i32, c: i32| {
        let (clamp, segment) = (c & 0x1f, c >> 8 & 0x1f);
        let (min, max) = (lane & segment, (lane & segment) | (clamp & !segment));
        let (j, ok) = match mode {
            "up" => (lane - b, lane - b >= max),
            "down" => (lane + b, lane + b <= max),
            "bfly" => (lane ^ b, (lane ^ b) <= max),
            _ => (min | (b & !segment), (min | (b & !segment)) <= max),
        };
        (if ok { j } else { lane }, ok)
    };
    for mode in ["up", "down", "bfly", "idx"] {
        for b in [0, 1, 3, 16, 31] {
            for c in [0x1f, 0, 0x1807, 0x1c03, 0x1000, 0x1e1f] {
                let body = format!(
                    "mul.lo.u32 %r2, %r0, 7; shfl.sync.{mode}.b32 %r3|%p0, %r2, {b}, {c:#x}, -1;\n\
                     selp.u32 %r4, 1000, 0, %p0; add.u32 %r1, %r3, %r4;"
                );
                let want: Vec<u32> = (0..32)
                    .map(|lane| {
                        let (j, ok) = source(mode, lane, b, c);
                        j as u32 * 7 + if ok { 1000 } else { 0 }
                    })
                    .collect();
                assert_eq!(lanes(32, &body), want, "{mode} {b} {c:#x}");
            }
        }
    }
}

#[test]
fn shuffle_from_a_lane_that_is_not_there() {
    // 20 threads: the sum by shfl.down is right in lane 0 if the strangers' values are not used...
    let body = "mov.u32 %r1, 1; shfl.sync.down.b32 %r2, %r1, 16, 0x1f, 0xfffff; setp.lt.u32 %p0, %r0, 4;\n\
                @%p0 add.u32 %r1, %r1, %r2;";
    assert_eq!(lanes(20, body)[..5], [2, 2, 2, 2, 1]);
    // ... and a finding if they are.
    let (kernel, out) = prepare(20, "mov.u32 %r1, 1; shfl.sync.down.b32 %r1, %r1, 16, 0x1f, 0xfffff;");
    only(&kernel.run(&[Argument::B64(out)]), Class::Uninitialised);
}

#[test]
fn votes_and_matches() {
    assert!(
        lanes(32, "setp.lt.u32 %p0, %r0, 9; vote.sync.ballot.b32 %r1, %p0, -1;").iter().all(|&v| v == 0x1ff)
    );
    assert!(
        lanes(32, "setp.lt.u32 %p0, %r0, 9; vote.sync.ballot.b32 %r1, !%p0, -1;")
            .iter()
            .all(|&v| v == !0x1ff)
    );
    for (mode, n, want) in [
        ("all", 32, 1),
        ("all", 31, 0),
        ("any", 1, 1),
        ("any", 0, 0),
        ("uni", 0, 1),
        ("uni", 5, 0),
        ("uni", 32, 1),
    ] {
        let body = format!(
            "setp.lt.u32 %p0, %r0, {n}; vote.sync.{mode}.pred %p1, %p0, -1; selp.u32 %r1, 1, 0, %p1;"
        );
        assert!(lanes(32, &body).iter().all(|&v| v == want), "{mode} {n}");
    }
    let got = lanes(32, "and.b32 %r2, %r0, 3; match.any.sync.b32 %r1, %r2, -1;");
    assert!(got.iter().enumerate().all(|(l, &v)| v == 0x1111_1111 << (l % 4)));
    let all = "mov.u64 %rd3, 7; match.all.sync.b64 %r1|%p0, %rd3, -1; selp.u32 %r2, 0, 1, %p0; sub.u32 %r1, %r1, %r2;";
    assert!(lanes(32, all).iter().all(|&v| v == u32::MAX));
    let not_all = "match.all.sync.b32 %r1|%p0, %r0, -1; selp.u32 %r2, 5, 6, %p0; add.u32 %r1, %r1, %r2;";
    assert!(lanes(32, not_all).iter().all(|&v| v == 6));
}

#[test]
fn reductions() {
    let check = |op: &str, value: &str, want: u32| {
        let body = format!("{value} redux.sync.{op} %r1, %r2, -1;");
        assert!(lanes(32, &body).iter().all(|&v| v == want), "{op}");
    };
    let signed = "sub.u32 %r2, %r0, 10;";
    check("add.u32", signed, (0..32u32).map(|l| l.wrapping_sub(10)).fold(0, u32::wrapping_add));
    check("add.s32", signed, 176);
    check("min.s32", signed, -10i32 as u32);
    check("max.s32", signed, 21);
    check("min.u32", signed, 0);
    check("max.u32", signed, u32::MAX);
    check("and.b32", "or.b32 %r2, %r0, 0x40;", 0x40);
    check("or.b32", "or.b32 %r2, %r0, 0x40;", 0x5f);
    check("xor.b32", "or.b32 %r2, %r0, 0x40;", 0);
    let float = "cvt.rn.f32.u32 %f1, %r0; sub.f32 %f1, %f1, 0f41900000; mov.b32 %r2, %f1;";
    let reduce = |op: &str, value: &str| {
        lanes(32, &format!("{value} mov.b32 %f2, %r2; redux.sync.{op}.f32 %f3, %f2, -1; mov.b32 %r1, %f3;"))
            [7]
    };
    assert_eq!(f32::from_bits(reduce("min", float)), -18.0);
    assert_eq!(f32::from_bits(reduce("max.abs", float)), 18.0);
    let with_nan = format!("{float} setp.eq.u32 %p0, %r0, 3; selp.b32 %r2, 0x7fc00000, %r2, %p0;");
    assert_eq!(f32::from_bits(reduce("max", &with_nan)), 13.0);
    assert!(f32::from_bits(reduce("max.NaN", &with_nan)).is_nan());
}

#[test]
fn elections() {
    let body = "elect.sync %r2|%p0, -1; selp.u32 %r3, 100, 0, %p0; add.u32 %r1, %r2, %r3;";
    let got = lanes(32, body);
    assert_eq!((got[0], got[1]), (100, 0));
    let some = "mov.u32 %r1, 0; setp.ge.u32 %p1, %r0, 5; @%p1 elect.sync _|%p0, 0xffffffe0; @!%p1 bra end;\n\
                selp.u32 %r1, 1, 0, %p0; end:";
    assert_eq!(lanes(32, some).iter().position(|&v| v == 1), Some(5));
}

#[test]
fn diverged_lanes_meet() {
    // Odd lanes take a longer way; all meet at the shuffle.
    let body = "and.b32 %r2, %r0, 1; setp.eq.u32 %p0, %r2, 0; mov.u32 %r3, %r0; @%p0 bra meet;\n\
                mul.lo.u32 %r3, %r0, 100; bra.uni late;\nlate: add.u32 %r3, %r3, 0;\nbra.uni meet;\n\
                meet: shfl.sync.bfly.b32 %r1, %r3, 1, 0x1f, -1;";
    let want: Vec<u32> =
        (0..32).map(|l: u32| if l.is_multiple_of(2) { (l + 1) * 100 } else { l - 1 }).collect();
    assert_eq!(lanes(32, body), want);
    // Halves of the warp, each by its own mask, at the same instruction at the same time.
    let body = "setp.lt.u32 %p0, %r0, 16; selp.b32 %r2, 0xffff, 0xffff0000, %p0; mov.u32 %r3, 1;\n\
                redux.sync.add.u32 %r4, %r0, %r2; mov.u32 %r1, %r4;";
    let got = lanes(32, body);
    assert_eq!((got[0], got[31]), (120, 376));
}

#[test]
fn spinning_lanes_do_not_starve_the_others() {
    // Lane 31 releases the others, who spin at a lower address.
    let body = "mov.u32 %r5, smem; mov.u32 %r6, 0; setp.eq.u32 %p0, %r0, 0; @%p0 st.shared.u32 [%r5], %r6; bar.warp.sync -1;\n\
                setp.eq.u32 %p0, %r0, 31; @%p0 bra release;\n\
                spin: ld.volatile.shared.u32 %r7, [%r5]; setp.eq.u32 %p1, %r7, 0; @%p1 bra spin;\n\
                bra.uni done;\n\
                release: mov.u32 %r7, 5; st.volatile.shared.u32 [%r5], %r7;\n\
                done: bar.warp.sync -1; mov.u32 %r1, %r7;";
    for schedule in schedules() {
        let (kernel, out) = prepare(32, body);
        let kernel = kernel.schedule(schedule);
        kernel.run_clean(&[out]);
        assert_eq!(kernel.u32s(out, 32), [5; 32]);
    }
}

#[test]
fn warp_barriers_order_memory() {
    // Lanes pass values on through shared memory, from different instructions.
    let body = "mov.u32 %r5, smem; mul.lo.u32 %r6, %r0, 4; add.u32 %r5, %r5, %r6; setp.lt.u32 %p0, %r0, 16; @%p0 bra low;\n\
                st.shared.u32 [%r5], %r0; bar.warp.sync -1; bra.uni go;\n\
                low: add.u32 %r7, %r0, 50; st.shared.u32 [%r5], %r7; bar.warp.sync -1;\n\
                go: xor.b32 %r6, %r6, 64; mov.u32 %r5, smem; add.u32 %r5, %r5, %r6; ld.shared.u32 %r1, [%r5];";
    let want: Vec<u32> = (0..32).map(|l: u32| if l < 16 { l + 16 } else { l - 16 + 50 }).collect();
    assert_eq!(lanes(32, body), want);
}

#[test]
fn exited_lanes_are_not_waited_for() {
    let body = "setp.ge.u32 %p0, %r0, 8; mov.u32 %r1, 77; @!%p0 bra rest; st.global.u32 [%rd1], %r1; exit;\n\
                rest: vote.sync.ballot.b32 %r1, %p0, -1; activemask.b32 %r1;";
    let got = lanes(32, body);
    assert_eq!((got[0], got[7], got[8]), (0xff, 0xff, 77));
}

#[test]
fn lanes_outside_the_mask_are_undefined() {
    let (kernel, out) = prepare(32, "shfl.sync.idx.b32 %r1, %r0, 0, 0x1f, 0xffff;");
    let findings = kernel.run(&[Argument::B64(out)]);
    assert!(findings.iter().any(|f| f.class == Class::Undefined), "{}", text(&findings));
}

#[test]
fn lanes_that_never_come_are_a_deadlock() {
    // Lanes 16.. wait for lanes 0..15 at another shuffle.
    let body = "setp.lt.u32 %p0, %r0, 16; mov.u32 %r1, 0; @%p0 bra low; shfl.sync.idx.b32 %r1, %r0, 0, 0x1f, -1; bra.uni end;\n\
                low: shfl.sync.idx.b32 %r1, %r0, 1, 0x1f, -1;\nend:";
    let (kernel, out) = prepare(32, body);
    let kernel = kernel.schedule(Schedule::Seeded(3));
    only(&kernel.run(&[Argument::B64(out)]), Class::Deadlock);
}
