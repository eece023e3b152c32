//! `kit logs`: the log of a component, or of a pod.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use crate::component::Component;
use crate::error::{Context, Result};
use crate::instance::Instance;

const POLL: Duration = Duration::from_millis(200);

impl Instance {
    /// Prints a component's log; following, it goes on until it is interrupted.
    pub fn print_logs(&self, component: &str, follow: bool, out: &mut impl Write) -> Result<()> {
        self.must_exist()?;
        let components = Component::matching(component, &self.components()?)?;
        for component in &components {
            let path = self.log_file(&component.name());
            if components.len() > 1 {
                writeln!(out, "==> {} <==", path.display()).doing("printing")?;
            }
            let read = copy_from(&path, 0, out)?;
            if follow && Some(component) == components.last() {
                follow_from(&path, read, out)?;
            }
        }
        Ok(())
    }
}

/// Prints a file from a position on and gives back the position after it.
fn copy_from(path: &Path, position: u64, out: &mut impl Write) -> Result<u64> {
    let reading = || format!("reading {}", path.display());
    let mut file = File::open(path).doing(reading())?;
    file.seek(SeekFrom::Start(position)).doing(reading())?;
    let mut buffer = Vec::new();
    let count = file.read_to_end(&mut buffer).doing(reading())?;
    out.write_all(&buffer)
        .and_then(|()| out.flush())
        .doing("printing")?;
    Ok(position + count as u64)
}

fn follow_from(path: &Path, mut position: u64, out: &mut impl Write) -> Result<()> {
    loop {
        std::thread::sleep(POLL);
        // A restarted component begins a new file.
        let length = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        if length < position {
            position = 0;
        }
        if length > position {
            position = copy_from(path, position, out)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_on_from_where_it_was() {
        let path = std::env::temp_dir().join(format!("penstock-logs-{}", std::process::id()));
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let mut out = Vec::new();
        let position = copy_from(&path, 0, &mut out).unwrap();
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        copy_from(&path, position, &mut out).unwrap();
        assert_eq!(out, b"one\ntwo\nthree\n");
        std::fs::remove_file(path).unwrap();
    }
}
