//! The examples of the documentation do what they say.
//!
//! A block of `sh` is run as it stands in a pipeline's network; what it prints is held against the block of `json` that
//! follows, where `…` stands for anything. A block of `yaml` that is a whole object is applied.

use std::process::Command;

use penstock_dataplane_config::DrainConfig;
use penstock_dataplane_config::load::{Environment, load};
use penstock_e2e::trial::{APP, Trial, Turn, Volumes};
use penstock_e2e::{Error, Result};

/// Every block with its language.
pub(crate) fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Blocks of `sh` and the `json` that follows each.
fn examples(page: &str) -> Vec<(String, String)> {
    blocks(page)
        .windows(2)
        .filter(|pair| pair[0].0 == "sh" && pair[1].0 == "json")
        .map(|pair| (pair[0].1.clone(), pair[1].1.clone()))
        .collect()
}

/// Whether `text` is `pattern`, where `…` is anything on the same line.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('…') else {
        return pattern == text;
    };
    let (middle, last) = rest.rsplit_once('…').unwrap_or(("", rest));
    let between = text.strip_prefix(first).and_then(|text| text.strip_suffix(last));
    let Some(mut between) = between else { return false };
    for part in middle.split('…') {
        match between.find(part) {
            Some(at) => between = &between[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[test]
fn patterns_match_what_they_should() {
    assert!(matches("a…b…d", "axxbyyd") && matches("a…", "abc") && matches("a", "a"));
    assert!(matches("{…}", "{{}}") && matches("a…b…c…d", "abcbcd"));
    assert!(!matches("a…c", "ab") && !matches("a", "ab") && !matches("b…", "ab"));
}

#[test]
fn every_example_of_the_guide_answers_as_written() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "docs", "")?;
    let page = std::fs::read_to_string(kit.repository().join("docs/ingest.md"))
        .map_err(|error| Error::new(error.to_string()))?;
    let examples = examples(&page);
    assert!(examples.len() >= 5, "only {} examples were found", examples.len());
    for (script, expected) in examples {
        let output = Command::new("sh")
            .args(["-ec", &script])
            .env("PENSTOCK_INGEST_URL", trial.url())
            .env("PENSTOCK_WRITE_KEY", trial.key(APP)?)
            .env("PENSTOCK_APP_ID", trial.app_id(APP)?)
            .output()
            .map_err(|error| Error::new(error.to_string()))?;
        let printed = String::from_utf8_lossy(&output.stdout).replace("}{", "}\n{");
        assert!(output.status.success(), "{script}{printed}");
        let expected: Vec<&str> = expected.lines().collect();
        let printed: Vec<&str> = printed.lines().collect();
        assert!(
            expected.len() == printed.len() && expected.iter().zip(&printed).all(|(e, p)| matches(e, p)),
            "{script}\nanswered\n{}\nnot\n{}",
            printed.join("\n"),
            expected.join("\n")
        );
    }
    Ok(())
}

#[test]
fn the_guides_pipeline_with_a_spool_comes_up() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "docs")?;
    let _volumes = Volumes::make(&trial, &["spool-events-ingest-0", "spool-events-ingest-1"])?;
    let page = std::fs::read_to_string(kit.repository().join("docs/durability.md"))
        .map_err(|error| Error::new(error.to_string()))?;
    let yaml = blocks(&page)
        .into_iter()
        .filter(|(language, _)| language == "yaml");
    let (objects, files): (Vec<_>, Vec<_>) = yaml
        .map(|(_, text)| text)
        .partition(|text| text.starts_with("apiVersion:"));
    assert_eq!((objects.len(), files.len()), (1, 1));
    let namespaced = format!("metadata: {{namespace: {}, ", trial.namespace());
    trial.apply(&objects[0].replace("metadata: {", &namespaced))?;
    trial.ready()?;
    let claims = trial.kubectl(&["get", "pvc", "-o", "jsonpath={.items[*].status.phase}"])?;
    assert_eq!(claims, "Bound Bound");
    let read = load::<DrainConfig>(&files[0], &Environment::new());
    assert!(read.is_ok(), "{read:?}");
    Ok(())
}
