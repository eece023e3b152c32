//! Container images without a registry or an engine: a folder becomes an image by buildah, an archive in the cache, and
//! an image in containerd by import.
//!
//! An archive's name holds a digest of what is in the image, so an unchanged image is neither built nor imported again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::fetch::{beside, fresh, lock, sha256};
use crate::file;
use crate::instance::Instance;
use crate::run::{run, run_logged};
use crate::versions;

/// What containerd runs first in every pod.
pub(crate) const PAUSE_IMAGE: &str = "penstock.local/pause:1";
/// The repository of the image that holds the programs of Penstock.
pub const PENSTOCK_REPOSITORY: &str = "penstock.local/penstock";

/// The programs in the image, and the packages that they are of.
pub(crate) const PENSTOCK_PROGRAMS: [&str; 3] = ["penstock-operator", "penstock-dataplane", "penstock"];
pub(crate) const PENSTOCK_PACKAGES: [&str; 3] = ["penstock-operator", "penstock-dataplane", "penstock-cli"];

/// The user that the images run as; pods may name another.
const USER: &str = "65532";

/// An image in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `repository:tag`
    pub reference: String,
    pub archive: PathBuf,
}

/// Which archive buildah writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Docker,
    Oci,
}

pub(crate) fn pause(instance: &Instance) -> Result<Image> {
    let source = instance.repository().join("e2e/pause/pause.c");
    cached(instance, "pause", PAUSE_IMAGE, &digest(&[&source])?, |root| {
        let program = root.join("pause");
        run(Command::new("cc")
            .args(["-static", "-Os", "-s", "-Wall", "-o"])
            .arg(&program)
            .arg(&source))
        .map_err(|error| {
            error.next("a static C library is needed: on Debian `apt-get install -y gcc libc6-dev`")
        })?;
        Ok("FROM scratch\nCOPY root/ /\nUSER 65535\nENTRYPOINT [\"/pause\"]\n".into())
    })
}

pub(crate) fn coredns(instance: &Instance) -> Result<Image> {
    let program = instance.cache().coredns().join("coredns");
    let reference = coredns_reference();
    cached(instance, "coredns", &reference, &digest(&[&program])?, |root| {
        fs::copy(&program, root.join("coredns")).doing("copying coredns")?;
        Ok(format!(
            "FROM scratch\nCOPY root/ /\nUSER {USER}\nENTRYPOINT [\"/coredns\"]\n"
        ))
    })
}

pub(crate) fn coredns_reference() -> String {
    format!("penstock.local/coredns:v{}", versions::COREDNS)
}

/// The image of Penstock from its built programs. Its tag is a digest of them.
pub(crate) fn penstock(instance: &Instance, built: &Path) -> Result<Image> {
    let containerfile = instance.repository().join("Containerfile");
    let programs = PENSTOCK_PROGRAMS.map(|name| built.join(name));
    let mut parts: Vec<&Path> = programs.iter().map(PathBuf::as_path).collect();
    parts.push(&containerfile);
    let digest = digest(&parts)?;
    let reference = format!("{PENSTOCK_REPOSITORY}:{digest}");
    cached(instance, "penstock", &reference, &digest, |root| {
        penstock_root(&programs, root)?;
        fs::read_to_string(&containerfile).doing("reading the Containerfile")
    })
}

/// Writes an image as an archive that other clusters can import.
pub fn export_penstock(instance: &Instance, built: &Path, reference: &str, target: &Path) -> Result<()> {
    let containerfile = instance.repository().join("Containerfile");
    let programs = PENSTOCK_PROGRAMS.map(|name| built.join(name));
    let work = fresh(&beside(&instance.cache().images().join("export")))?;
    let root = fresh(&work.join("root"))?;
    penstock_root(&programs, &root)?;
    let text = fs::read_to_string(&containerfile).doing("reading the Containerfile")?;
    build(
        &work,
        &text,
        reference,
        Format::Oci,
        target,
        &instance.cache().build_log("image-export"),
    )?;
    fs::remove_dir_all(&work).doing("clearing the work folder")
}

/// Makes the files of Penstock's image: the programs, the libraries they are linked to, and the few files that a C
/// library reads.
fn penstock_root(programs: &[PathBuf], root: &Path) -> Result<()> {
    for program in programs {
        let name = program.file_name().unwrap_or_default();
        install(program, &root.join("usr/bin").join(name))?;
        for library in libraries(program)? {
            let relative = library.strip_prefix("/").unwrap_or(&library);
            install(&library, &root.join(relative))?;
        }
    }
    file::write(
        &root.join("etc/passwd"),
        format!("penstock:x:{USER}:{USER}::/:/sbin/nologin\n").as_bytes(),
        0o644,
    )?;
    file::write(
        &root.join("etc/group"),
        format!("penstock:x:{USER}:\n").as_bytes(),
        0o644,
    )?;
    file::write(
        &root.join("etc/nsswitch.conf"),
        b"passwd: files\ngroup: files\nhosts: files dns\n",
        0o644,
    )?;
    let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if certificates.exists() {
        install(certificates, &root.join("etc/ssl/certs/ca-certificates.crt"))?;
    }
    let temporary = root.join("tmp");
    fs::create_dir_all(&temporary).doing("creating /tmp of the image")?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777)).doing("opening /tmp of the image")
}

fn install(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).doing(format_args!("creating {}", parent.display()))?;
    }
    fs::copy(from, to).doing(format_args!("copying {}", from.display()))?;
    Ok(())
}

/// What a program is linked to, the loader included, with the C library's parts that are loaded by name at run time.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = run(Command::new("ldd").arg(program))?;
    let mut found = parse_ldd(&listed);
    if let Some(folder) = found
        .iter()
        .find(|path| path.ends_with("libc.so.6"))
        .and_then(|path| path.parent())
    {
        let folder = folder.to_path_buf();
        found
            .extend(["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"].map(|name| folder.join(name)));
    }
    found.retain(|path| path.exists());
    found.sort();
    found.dedup();
    Ok(found)
}

fn parse_ldd(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let line = line.trim();
        let candidate = line.split_once("=>").map_or(line, |(_, target)| target.trim());
        let path = candidate.split(" (").next().unwrap_or_default();
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    text.lines().filter_map(path).collect()
}

/// The archive of an image, built by `fill` unless one of the same digest is there. `fill` gets the folder that becomes
/// the image's root and returns the Containerfile.
fn cached(
    instance: &Instance,
    name: &str,
    reference: &str,
    digest: &str,
    fill: impl FnOnce(&Path) -> Result<String>,
) -> Result<Image> {
    let archive = instance.cache().images().join(format!("{name}-{digest}.tar"));
    let image = Image {
        reference: reference.to_owned(),
        archive,
    };
    if image.archive.exists() {
        return Ok(image);
    }
    let _lock = lock(instance, &format!("image-{name}"))?;
    if image.archive.exists() {
        return Ok(image);
    }
    let work = fresh(&beside(&instance.cache().images().join(name)))?;
    let root = fresh(&work.join("root"))?;
    let containerfile = fill(&root)?;
    let log = instance.cache().build_log(&format!("image-{name}"));
    build(
        &work,
        &containerfile,
        reference,
        Format::Docker,
        &image.archive,
        &log,
    )?;
    fs::remove_dir_all(&work).doing("clearing the work folder")?;
    remove_older(&instance.cache().images(), name, &image.archive);
    Ok(image)
}

/// Runs buildah with storage of its own in `work`, so that nothing stays behind on the machine.
fn build(
    work: &Path,
    containerfile: &str,
    reference: &str,
    format: Format,
    target: &Path,
    log: &Path,
) -> Result<()> {
    file::write(&work.join("Containerfile"), containerfile.as_bytes(), 0o644)?;
    let buildah = || {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(work.join("storage"))
            .arg("--runroot")
            .arg(work.join("run"));
        command.args(["--storage-driver", "vfs"]);
        command
    };
    let transport = match format {
        Format::Docker => "docker-archive",
        Format::Oci => "oci-archive",
    };
    let unfinished = beside(target);
    if unfinished.exists() {
        fs::remove_file(&unfinished).doing(format_args!("removing {}", unfinished.display()))?;
    }
    // With the host's network buildah sets up none of its own: nothing in these images is run at build time.
    let mut command = buildah();
    command
        .args([
            "build",
            "--network",
            "host",
            "--isolation",
            "chroot",
            "--tag",
            reference,
        ])
        .arg(work);
    run_logged(&mut command, log)?;
    let destination = format!("{transport}:{}:{reference}", unfinished.display());
    run_logged(buildah().args(["push", reference, &destination]), log)?;
    fs::rename(&unfinished, target).doing(format_args!("completing {}", target.display()))
}

/// Archives of earlier builds would fill the disk: one is enough.
fn remove_older(folder: &Path, name: &str, newest: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let file_name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path != newest && file_name.starts_with(&format!("{name}-")) && file_name.ends_with(".tar") {
            // Another run may have removed it first.
            let _ = fs::remove_file(path);
        }
    }
}

/// A short digest over files.
fn digest(files: &[&Path]) -> Result<String> {
    let mut all = Sha256::new();
    for path in files {
        all.update(sha256(path)?);
    }
    Ok(all
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

impl Instance {
    /// Puts an image into the instance's containerd, unless it is there. Says whether it did.
    pub(crate) fn import(&self, image: &Image) -> Result<bool> {
        let marker = self
            .run_dir()
            .join("images")
            .join(image.archive.file_name().unwrap_or_default());
        let listed = run(self.ctr().args(["images", "list", "--quiet"]))?;
        if marker.exists() && listed.lines().any(|line| line == image.reference) {
            return Ok(false);
        }
        run(self.ctr().args(["images", "import"]).arg(&image.archive))?;
        let listed = run(self.ctr().args(["images", "list", "--quiet"]))?;
        if !listed.lines().any(|line| line == image.reference) {
            return Err(Error::new(format!(
                "containerd imported {} but lists no {}",
                image.archive.display(),
                image.reference
            )));
        }
        file::write(&marker, b"", 0o644)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_lists_libraries_and_the_loader() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\
                    \tlibmissing.so => not found\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(parse_ldd(text), expected.map(PathBuf::from));
    }

    #[test]
    fn a_digest_follows_every_file() {
        let dir = std::env::temp_dir().join(format!("penstock-image-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (a, b) = (dir.join("a"), dir.join("b"));
        fs::write(&a, "1").unwrap();
        fs::write(&b, "2").unwrap();
        let first = digest(&[&a, &b]).unwrap();
        assert_eq!(first.len(), 16);
        assert_eq!(digest(&[&a, &b]).unwrap(), first);
        fs::write(&b, "3").unwrap();
        assert_ne!(digest(&[&a, &b]).unwrap(), first);
        fs::remove_dir_all(dir).unwrap();
    }
}
