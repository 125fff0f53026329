//! LLVM's NVVM intrinsics used by this crate, in one place.
//!
//! Pointer-free only: rustc declares pointers in the generic address space, and an intrinsic that wants
//! `addrspace(1)`, `(3)` or `(6)` then fails instruction selection.
#![cfg(target_arch = "nvptx64")]

/// `elect.sync`'s pair: the elected lane and whether this lane is it.
#[repr(C)]
pub struct Elected(pub u32, pub bool);

macro_rules! intrinsics {
    ($($link:literal fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        #[allow(improper_ctypes)]
        unsafe extern "unadjusted" {
            $(#[link_name = $link] pub fn $name($($arg: $ty),*) $(-> $ret)?;)*
        }
    };
}

intrinsics! {
    "llvm.nvvm.read.ptx.sreg.tid.x" fn tid_x() -> u32;
    "llvm.nvvm.read.ptx.sreg.tid.y" fn tid_y() -> u32;
    "llvm.nvvm.read.ptx.sreg.tid.z" fn tid_z() -> u32;
    "llvm.nvvm.read.ptx.sreg.ntid.x" fn ntid_x() -> u32;
    "llvm.nvvm.read.ptx.sreg.ntid.y" fn ntid_y() -> u32;
    "llvm.nvvm.read.ptx.sreg.ntid.z" fn ntid_z() -> u32;
    "llvm.nvvm.read.ptx.sreg.ctaid.x" fn ctaid_x() -> u32;
    "llvm.nvvm.read.ptx.sreg.ctaid.y" fn ctaid_y() -> u32;
    "llvm.nvvm.read.ptx.sreg.ctaid.z" fn ctaid_z() -> u32;
    "llvm.nvvm.read.ptx.sreg.nctaid.x" fn nctaid_x() -> u32;
    "llvm.nvvm.read.ptx.sreg.nctaid.y" fn nctaid_y() -> u32;
    "llvm.nvvm.read.ptx.sreg.nctaid.z" fn nctaid_z() -> u32;
    "llvm.nvvm.read.ptx.sreg.laneid" fn laneid() -> u32;
    "llvm.nvvm.read.ptx.sreg.cluster.ctarank" fn cluster_ctarank() -> u32;
    "llvm.nvvm.read.ptx.sreg.cluster.nctarank" fn cluster_nctarank() -> u32;

    "llvm.nvvm.barrier.cta.sync.aligned.all" fn barrier_sync_all(barrier: u32);
    "llvm.nvvm.barrier.cta.sync.aligned.count" fn barrier_sync_count(barrier: u32, threads: u32);
    "llvm.nvvm.barrier.cta.arrive.aligned.count" fn barrier_arrive_count(barrier: u32, threads: u32);
    "llvm.nvvm.bar.warp.sync" fn bar_warp_sync(mask: u32);

    "llvm.nvvm.shfl.sync.idx.i32" fn shfl_idx(mask: u32, value: u32, lane: u32, clamp: u32) -> u32;
    "llvm.nvvm.shfl.sync.up.i32" fn shfl_up(mask: u32, value: u32, delta: u32, clamp: u32) -> u32;
    "llvm.nvvm.shfl.sync.down.i32" fn shfl_down(mask: u32, value: u32, delta: u32, clamp: u32) -> u32;
    "llvm.nvvm.shfl.sync.bfly.i32" fn shfl_bfly(mask: u32, value: u32, xor: u32, clamp: u32) -> u32;
    "llvm.nvvm.vote.all.sync" fn vote_all(mask: u32, predicate: bool) -> bool;
    "llvm.nvvm.vote.any.sync" fn vote_any(mask: u32, predicate: bool) -> bool;
    "llvm.nvvm.vote.ballot.sync" fn vote_ballot(mask: u32, predicate: bool) -> u32;
    "llvm.nvvm.redux.sync.add" fn redux_add(value: u32, mask: u32) -> u32;
    "llvm.nvvm.redux.sync.umin" fn redux_umin(value: u32, mask: u32) -> u32;
    "llvm.nvvm.redux.sync.umax" fn redux_umax(value: u32, mask: u32) -> u32;
    "llvm.nvvm.redux.sync.and" fn redux_and(value: u32, mask: u32) -> u32;
    "llvm.nvvm.redux.sync.or" fn redux_or(value: u32, mask: u32) -> u32;
    "llvm.nvvm.redux.sync.xor" fn redux_xor(value: u32, mask: u32) -> u32;
    "llvm.nvvm.match.any.sync.i32" fn match_any(mask: u32, value: u32) -> u32;
    "llvm.nvvm.elect.sync" fn elect(mask: u32) -> Elected;

    "llvm.nvvm.setmaxnreg.inc.sync.aligned.u32" fn setmaxnreg_inc(registers: u32);
    "llvm.nvvm.setmaxnreg.dec.sync.aligned.u32" fn setmaxnreg_dec(registers: u32);

    "llvm.nvvm.barrier.cluster.arrive.aligned" fn cluster_arrive();
    "llvm.nvvm.barrier.cluster.arrive.relaxed.aligned" fn cluster_arrive_relaxed();
    "llvm.nvvm.barrier.cluster.wait.aligned" fn cluster_wait();
    "llvm.nvvm.griddepcontrol.wait" fn griddep_wait();
    "llvm.nvvm.griddepcontrol.launch.dependents" fn griddep_launch_dependents();

    "llvm.fma.f32" fn fma_rn(a: f32, b: f32, c: f32) -> f32;
    "llvm.nvvm.sqrt.rn.f" fn sqrt_rn(a: f32) -> f32;
    "llvm.minimum.f32" fn minimum(a: f32, b: f32) -> f32;
    "llvm.maximum.f32" fn maximum(a: f32, b: f32) -> f32;
    "llvm.nvvm.prmt" fn prmt(a: u32, b: u32, selector: u32) -> u32;

    "llvm.nvvm.membar.cta" fn membar_cta();
    "llvm.nvvm.membar.gl" fn membar_gl();
    "llvm.nvvm.membar.sys" fn membar_sys();
    "llvm.nvvm.nanosleep" fn nanosleep(ns: u32);

    "llvm.nvvm.wgmma.fence.sync.aligned" fn wgmma_fence();
    "llvm.nvvm.wgmma.commit_group.sync.aligned" fn wgmma_commit_group();
    "llvm.nvvm.wgmma.wait_group.sync.aligned" fn wgmma_wait_group(pending: u64);

    "llvm.nvvm.tcgen05.fence.before.thread.sync" fn tcgen05_fence_before();
    "llvm.nvvm.tcgen05.fence.after.thread.sync" fn tcgen05_fence_after();
    "llvm.nvvm.tcgen05.wait.ld" fn tcgen05_wait_ld();
    "llvm.nvvm.tcgen05.wait.st" fn tcgen05_wait_st();
    "llvm.nvvm.tcgen05.relinq.alloc.permit.cg1" fn tcgen05_relinquish_cg1();
    "llvm.nvvm.tcgen05.relinq.alloc.permit.cg2" fn tcgen05_relinquish_cg2();
}
