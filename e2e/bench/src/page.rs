//! What all pages of figures have in common: how a machine, goals and numbers are written, and pages whose parts are
//! written by commands of their own.
//!
//! Writing to a String cannot fail, so what `write!` says is not looked at.

use std::fmt::Write as _;

use crate::goals::Goal;

/// A machine with more to do than this is not idle.
const IDLE: f64 = 0.3;

/// What the figures were measured on; the last row is about the runs.
pub fn machine(page: &mut String, machine: &[(&'static str, String)], runs: &str) {
    page.push_str("| | |\n|---|---|\n");
    for (name, value) in machine {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    let _ = writeln!(page, "| runs | {runs} |\n");
}

/// A warning where `load` cores were busy before the first run.
pub fn busy(page: &mut String, load: f64) {
    if load > IDLE {
        page.push_str(
            "**The machine was busy with other work**, so latencies, rates and the CPU of paced loads say more about that \
             than about the servers. Run it again on an idle machine; what is missed here may be reached there.\n\n",
        );
    }
}

/// The table of goals.
pub fn goals(page: &mut String, goals: &[Goal]) {
    page.push_str("| | goal | measured | |\n|---|---|---|---|\n");
    for Goal {
        of,
        goal,
        figure,
        reached,
    } in goals
    {
        let verdict = if *reached { "reached" } else { "**missed**" };
        let _ = writeln!(page, "| {of} | {goal} | {figure} | {verdict} |");
    }
    page.push('\n');
}

/// Three digits that matter.
pub fn short(figure: f64) -> String {
    match figure {
        small if small < 1.0 => format!("{small:.3}"),
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}

/// A page with one part, which begins with `## title`, written anew and the others as they were. Parts keep the order
/// in which they first came.
pub fn with_part(page: &str, head: &str, title: &str, part: &str) -> String {
    let heading = format!("## {title}\n");
    let mut parts: Vec<String> = Vec::new();
    for line in page.split_inclusive('\n') {
        if line.starts_with("## ") {
            parts.push(String::new());
        }
        if let Some(last) = parts.last_mut() {
            last.push_str(line);
        }
    }
    let written = format!("{heading}\n{part}");
    match parts.iter_mut().find(|part| part.starts_with(&heading)) {
        Some(old) => *old = written,
        None => parts.push(written),
    }
    let parts: Vec<&str> = parts.iter().map(|part| part.trim_end()).collect();
    format!("{head}\n{}\n", parts.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_replaced_and_the_others_stay() {
        let first = with_part("", "# Head\n", "One", "a\n\n### Small\n\nb\n");
        assert_eq!(first, "# Head\n\n## One\n\na\n\n### Small\n\nb\n");
        let both = with_part(&first, "# Head\n", "Two", "c\n");
        assert_eq!(both, "# Head\n\n## One\n\na\n\n### Small\n\nb\n\n## Two\n\nc\n");
        let again = with_part(&both, "# New\n", "One", "d\n");
        assert_eq!(again, "# New\n\n## One\n\nd\n\n## Two\n\nc\n");
        assert_eq!(with_part(&again, "# New\n", "One", "d\n"), again, "twice is once");
    }
}
