//! Prints `docs/cli.md`.

fn main() {
    print!("{}", penstock_cli::reference::page());
}
