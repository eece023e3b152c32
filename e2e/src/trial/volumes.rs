//! Volumes for claims of a trial. The cluster has few of its own, each good for one claim, so a trial that has claims
//! brings theirs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::Trial;
use crate::component::Component;
use crate::error::{Context, Error, Result};
use crate::instance::Instance;
use crate::run::run;

/// Large enough for what the guide's examples ask for.
const CAPACITY: &str = "10Gi";

/// Volumes of the class `local`, which only the claims they are for can have. Deleted when dropped; what is on them stays
/// until the instance goes.
#[derive(Debug)]
pub struct Volumes<'a> {
    kit: &'a Instance,
    namespace: String,
    folders: Vec<PathBuf>,
    /// Mounted for [`Self::shrink`].
    mounted: Vec<PathBuf>,
}

impl<'a> Volumes<'a> {
    /// One for each of these claims of the trial. A claim that is made again needs another one.
    pub fn make(trial: &Trial<'a>, claims: &[&str]) -> Result<Self> {
        let (kit, namespace) = (trial.kit, trial.namespace.clone());
        let mut folders = Vec::new();
        let mut yaml = String::new();
        for (number, claim) in claims.iter().enumerate() {
            let name = format!("{namespace}-{number}");
            let folder = kit.data_dir("volumes").join(&name);
            fs::create_dir_all(&folder).doing(format_args!("creating {}", folder.display()))?;
            yaml.push_str(&format!(
                "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}, labels: {{trial: {namespace}}}}}\n\
                 spec:\n  storageClassName: local\n  capacity: {{storage: {CAPACITY}}}\n  accessModes: [ReadWriteOnce]\n  \
                 persistentVolumeReclaimPolicy: Retain\n  claimRef: {{apiVersion: v1, kind: PersistentVolumeClaim, namespace: \
                 {namespace}, name: {claim}}}\n  local: {{path: {}}}\n  nodeAffinity:\n    required:\n      \
                 nodeSelectorTerms:\n        - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{}]}}]\n",
                folder.display(),
                kit.scope()
            ));
            folders.push(folder);
        }
        trial.apply(&yaml)?;
        Ok(Self {
            kit,
            namespace,
            folders,
            mounted: Vec::new(),
        })
    }

    /// Has a volume hold only so many bytes, whatever it was asked for. Before a pod mounts it.
    pub fn shrink(&mut self, number: usize, bytes: u64) -> Result<()> {
        let folder = self.folders[number].clone();
        let size = format!("size={bytes}");
        let mut mount = self.where_volumes_are_mounted()?;
        run(mount
            .args(["mount", "-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&folder))?;
        self.mounted.push(folder);
        Ok(())
    }

    /// A command for the mounts that kubelet sees, which are not the ones of `kit exec`.
    fn where_volumes_are_mounted(&self) -> Result<Command> {
        let kubelet = self.kit.process(Component::Kubelet);
        let kubelet = kubelet.ok_or_else(|| Error::new("kubelet does not run"))?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", kubelet.pid));
        Ok(command)
    }

    /// Where what is on the volume of one of the claims lies, by its place among them.
    pub fn folder(&self, number: usize) -> &PathBuf {
        &self.folders[number]
    }
}

impl Drop for Volumes<'_> {
    fn drop(&mut self) {
        let selector = format!("trial={}", self.namespace);
        let deleted = self.kit.inside(|| {
            let arguments = ["delete", "persistentvolume", "-l", &selector, "--wait=false"];
            run(self.kit.kubectl().args(arguments))
        });
        if let Err(error) = deleted {
            eprintln!("volumes of {} are left: {error}", self.namespace);
        }
        for folder in &self.mounted {
            // A pod may still have it, for a moment.
            let unmounted = self
                .where_volumes_are_mounted()
                .and_then(|mut command| run(command.args(["umount", "--lazy"]).arg(folder)));
            if let Err(error) = unmounted {
                eprintln!("{} is left mounted: {error}", folder.display());
            }
        }
    }
}
