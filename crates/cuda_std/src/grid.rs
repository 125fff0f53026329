//! Programmatic dependent launch (sm_90+, PTX ISA, Parallel Synchronization).

use crate::gpu_only;
#[cfg(target_arch = "nvptx64")]
use crate::nvvm;

/// Blocks until every grid this one depends on has completed and its memory is visible
/// (`griddepcontrol.wait`). Without a dependency it does nothing. Anything that reads or writes data of the
/// previous kernel comes after it.
#[gpu_only]
#[inline(always)]
pub fn wait_for_dependencies() {
    // SAFETY: the instruction has no precondition.
    unsafe { nvvm::griddep_wait() }
}

/// Lets dependent grids start once every block has called it or exited
/// (`griddepcontrol.launch_dependents`). Gives no memory visibility.
#[gpu_only]
#[inline(always)]
pub fn launch_dependents() {
    // SAFETY: the instruction has no precondition.
    unsafe { nvvm::griddep_launch_dependents() }
}
