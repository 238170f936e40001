//! Boots the machine with a script: `cargo run -p vm --example boot -- [newest] SCRIPT [LOCKSTEP]`; its console is
//! printed.

use std::time::Duration;

use vm::{Guest, Kernel, Release};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let release = match arguments.next_if(|it| it == "newest") {
        Some(_) => Release::Newest,
        None => Release::Stable,
    };
    let script = arguments
        .next()
        .ok_or_else(|| anyhow::anyhow!("which script?"))?;
    let mut guest = Guest::new(Kernel::fetch(release)?, std::fs::read_to_string(script)?)
        .with_modules(vm::MODULES)
        .with_tools(vm::TOOLS)?
        .with_disk(4 << 30)
        .with_memory(2048);
    if let Some(program) = arguments.next() {
        guest = guest.with_program(program, "lockstep");
    }
    let outcome = guest.run(Duration::from_secs(1800))?;
    println!("{}", outcome.console);
    println!("exit code {:?} after {:?}", outcome.code, outcome.took);
    std::process::exit(outcome.code.unwrap_or(1));
}
