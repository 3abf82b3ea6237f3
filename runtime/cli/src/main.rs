//! The `plumb` command: words to checked requests, library calls, text or `--json`, exit codes.

mod args;
mod exit;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let _cli = args::Cli::parse();
    std::process::ExitCode::SUCCESS
}
