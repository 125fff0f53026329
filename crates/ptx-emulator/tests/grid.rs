//! Register pools, cluster launch control, grid dependencies, fences.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, entry, only, schedules, text};
use ptx_emulator::check::{Class, Finding};
use ptx_emulator::machine::Argument;

/// 3 warpgroups with 168 registers per thread.
fn registers(body: &str) -> String {
    entry("", &format!("mov.u32 %r1, %tid.x;\n{body}"))
        .replace(".visible .entry k()", ".visible .entry k()\n.maxntid 384, 1, 1\n.minnctapersm 1")
}

fn run_registers(body: &str) -> Vec<Finding> {
    let mut last = Vec::new();
    for schedule in schedules() {
        last = Kernel::new(&registers(body), 384).schedule(schedule).run(&[]);
    }
    last
}

#[test]
fn register_pools() {
    // One warpgroup gives 128 per thread, the two others take 64 each (to 232).
    let good = "setp.lt.u32 %p1, %r1, 128; @%p1 bra A; setmaxnreg.inc.sync.aligned.u32 232; bra E;\n\
                A: setmaxnreg.dec.sync.aligned.u32 40; E:";
    assert!(run_registers(good).is_empty());
    let found = run_registers(&good.replace("40;", "48;"));
    assert!(only(&found, Class::Deadlock).message.contains("registers"), "{}", text(&found));
    // Increasing below what a warp has.
    only(&run_registers("setmaxnreg.inc.sync.aligned.u32 40;"), Class::Undefined);
    // Two warps of a warpgroup do it, two do something else.
    let split = "and.b32 %r2, %r1, 127; setp.lt.u32 %p1, %r2, 64; @%p1 bra A; setmaxnreg.dec.sync.aligned.u32 48; bra E;\n\
                 A: setmaxnreg.dec.sync.aligned.u32 40; E:";
    assert!(only(&run_registers(split), Class::Undefined).earlier.is_some());
    // Without a register count of the kernel.
    let found = Kernel::new(&entry("", "setmaxnreg.dec.sync.aligned.u32 40;"), 128).run(&[]);
    assert!(only(&found, Class::Undefined).message.contains("no effect"));
}

#[test]
fn cancelling_clusters_fails() {
    let source = entry(
        ".param .u64 out",
        "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem; mov.u32 %r3, %ctaid.x; setp.eq.u32 %p1, %r1, 0;\n\
         griddepcontrol.wait;\n\
         @%p1 mbarrier.init.shared::cta.b64 [%r2+64], 1; fence.mbarrier_init.release.cluster; bar.sync 0;\n\
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+64], 16;\n\
         @%p1 clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [%r2], [%r2+64];\n\
         W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2+64], 0; @!%p2 bra W;\n\
         ld.shared.b128 %q0, [%r2]; clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p3, %q0;\n\
         selp.u32 %r4, 1, 2, %p3; griddepcontrol.launch_dependents;\n\
         mul.wide.u32 %rd2, %r3, 4; add.u64 %rd1, %rd1, %rd2; @%p1 st.global.u32 [%rd1], %r4;",
    );
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 32).schedule(schedule);
        k.grid = [3, 1, 1];
        let out = k.allocate(12);
        let found = k.run(&[Argument::B64(out)]);
        assert!(found.is_empty(), "{}", text(&found));
        assert_eq!(k.u32s(out, 3), [2; 3]);
    }
}

#[test]
fn fences_and_sleep_do_nothing_to_results() {
    let lines = "fence.acq_rel.cta; fence.acq_rel.cluster; fence.acq_rel.gpu; fence.acq_rel.sys; fence.sc.gpu; membar.cta; membar.gl; membar.sys;\n\
        fence.acquire.gpu; fence.release.gpu; fence.proxy.async; fence.proxy.async.global; fence.proxy.async.shared::cta;\n\
        fence.proxy.async.shared::cluster; fence.proxy.alias; fence.mbarrier_init.release.cluster;\n\
        fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;\n\
        fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster;\n\
        fence.acquire.sync_restrict::shared::cluster.cluster; fence.release.sync_restrict::shared::cta.cluster;\n\
        fence.proxy.tensormap::generic.release.gpu; nanosleep.u32 64;";
    assert!(Kernel::new(&entry("", lines), 64).run(&[]).is_empty());
}
