use std::process::ExitCode;

use clap::Parser;

/// Bodies pass through large short-lived buffers, which glibc gives back to the kernel each time.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    hopfall::cli::Cli::parse().run()
}
