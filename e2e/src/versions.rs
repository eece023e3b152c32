//! The versions of everything the kit builds or fetches. A cache folder is named by them.
//!
//! The Go modules and the Maven file say the same versions again, because their tools read only those; the tests
//! here fail when they differ.

pub const KUBERNETES: &str = "1.34.4";
pub const HELM: &str = "4.3.1";
pub const COREDNS: &str = "1.15.0";
pub const KAFKA: &str = "4.3.1";
pub const CHDB: &str = "26.7.3-stable.1";
/// Of the package's tarball, as `npm pack` writes it.
pub const CHDB_SHA256: &str = "c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_files_pin_the_same_versions() {
        let files = [
            (
                include_str!("../tools/kubernetes/go.mod"),
                format!("k8s.io/kubernetes v{KUBERNETES} "),
            ),
            (
                include_str!("../tools/helm/go.mod"),
                format!("helm.sh/helm/v4 v{HELM} "),
            ),
            (
                include_str!("../tools/coredns/go.mod"),
                format!("github.com/coredns/coredns v{COREDNS} "),
            ),
            (
                include_str!("../tools/kafka/pom.xml"),
                format!("<kafka.version>{KAFKA}</kafka.version>"),
            ),
        ];
        for (file, pin) in files {
            assert!(file.contains(&pin), "no file pins {pin}");
        }
    }
}
