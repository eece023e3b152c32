//! Where the engine's library is, and how it gets there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PACKAGE: &str = "@chdb/lib-linux-x64-gnu@26.7.3-stable.1";
const SHA256: &str = "c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad";

/// The library in the cache; fetched once when it is not there.
pub(crate) fn path() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = cache().join("chdb-26.7.3-stable.1");
        let library = folder.join("libchdb.so");
        if !library.exists() {
            fetch(&folder);
        }
        library
    })
}

fn cache() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("PENSTOCK_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("penstock")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/penstock")))
        .expect("HOME or PENSTOCK_CACHE is set")
}

/// Unpacks beside the place and renames, so that a fetch that is cut leaves nothing that looks whole.
fn fetch(folder: &Path) {
    std::fs::create_dir_all(folder).expect("the cache can be written");
    let work = tempfile::tempdir_in(folder).expect("the cache can be written");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&work).output();
        let output = output.unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    let tarball = run("npm", &["pack", "--silent", PACKAGE]);
    let sum = run("sha256sum", &[&tarball]);
    assert_eq!(
        sum.split_whitespace().next(),
        Some(SHA256),
        "{tarball} is not the package that was checked"
    );
    run("tar", &["xzf", &tarball, "package/libchdb.so"]);
    std::fs::rename(work.path().join("package/libchdb.so"), folder.join("libchdb.so")).expect("renames");
}
