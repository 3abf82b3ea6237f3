//! The `plumb` command: words to checked requests, library calls, text or `--json`, exit codes.

mod args;
mod client;
mod commands;
mod exit;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let cli = args::Cli::parse();
    let made = match cli.command {
        args::Command::New(args) => commands::new::new(&args.name, &args.entity, std::path::Path::new(".")),
        args::Command::Build(args) => commands::build::build(args.path.as_deref(), args.out.as_deref()),
        _ => return std::process::ExitCode::SUCCESS,
    };
    match made {
        Ok(path) => {
            eprintln!("{}", path.display());
            std::process::ExitCode::SUCCESS
        }
        Err(error) => exit::report(&error),
    }
}
