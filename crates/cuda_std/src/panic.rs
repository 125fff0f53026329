//! A panic on the device traps: the launch fails with an error that the host sees.

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: `trap` ends the kernel (PTX ISA, Miscellaneous); nothing runs after it.
    unsafe { core::arch::asm!("trap;", options(noreturn, nostack)) }
}
