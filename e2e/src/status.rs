//! `kit status`: what of the instance runs, and how it does.

use std::fmt::Write;
use std::fs;

use crate::component::Component;
use crate::daemon::Health;
use crate::error::Result;
use crate::instance::Instance;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub component: Component,
    pub health: Health,
    pub pid: Option<i32>,
    pub memory_mb: Option<u64>,
}

impl Instance {
    pub fn status(&self) -> Result<Vec<Row>> {
        self.must_exist()?;
        let row = |component: Component| {
            let pid = self.process(component).map(|identity| identity.pid);
            Row {
                component,
                health: self.health(component),
                pid,
                memory_mb: pid.and_then(resident_mb),
            }
        };
        Ok(self.components()?.into_iter().map(row).collect())
    }
}

/// The table as it is printed.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<26}{:<12}{:>8}{:>10}\n", "COMPONENT", "STATE", "PID", "MEMORY");
    for Row {
        component,
        health,
        pid,
        memory_mb,
    } in rows
    {
        let state = match health {
            Health::Ready => "ready",
            Health::NotReady => "not ready",
            Health::Stopped => "stopped",
        };
        let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let memory = memory_mb.map_or_else(|| "-".to_owned(), |mb| format!("{mb} MB"));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<26}{state:<12}{pid:>8}{memory:>10}", component.name());
    }
    text
}

fn resident_mb(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(kilobytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each() {
        let rows = [
            Row {
                component: Component::Redis,
                health: Health::Ready,
                pid: Some(7),
                memory_mb: Some(12),
            },
            Row {
                component: Component::Kafka(1),
                health: Health::Stopped,
                pid: None,
                memory_mb: None,
            },
        ];
        let text = table(&rows);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1], ["redis", "ready", "7", "12", "MB"]);
        assert_eq!(lines[2], ["kafka-1", "stopped", "-", "-"]);
    }
}
