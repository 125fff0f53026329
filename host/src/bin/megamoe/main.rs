//! The `megamoe` program.
fn main() {}
