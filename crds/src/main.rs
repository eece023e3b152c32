//! Writes `crds/yaml/`, its copy in the chart, and `docs/resources.md`.
#![forbid(unsafe_code)]

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    std::fs::create_dir_all(&folder)?;
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/penstock/charts/penstock-crds/files");
    for (name, yaml) in penstock_crds::generate::files() {
        std::fs::write(folder.join(&name), &yaml)?;
        std::fs::write(chart.join(&name), yaml)?;
        println!("crds/yaml/{name}");
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/resources.md");
    std::fs::write(page, penstock_crds::reference::page())?;
    println!("docs/resources.md");
    Ok(())
}
