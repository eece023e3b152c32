//! Every parser of what strangers send, as a function of bytes: it must not panic, and must keep the promise that its
//! target names.
//!
//! Coverage-guided fuzzers run them at length (`make fuzz`, `make test-full`; `dataplane/fuzz`). The tests here replay
//! the corpus, and for a minute what becomes of it by chance, the same in every run.

pub use crate::consume::fuzz::record;
pub use crate::ingest::fuzz::{encoding, envelope, forwarded, json, key, native, segment};

/// A parser.
pub type Target = fn(&[u8]);

/// By name, which is also that of the corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("encoding", encoding),
    ("envelope", envelope),
    ("forwarded", forwarded),
    ("json", json),
    ("key", key),
    ("native", native),
    ("record", record),
    ("segment", segment),
];

#[cfg(test)]
mod tests {
    use std::num::NonZero;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    /// How long each target is fed at random: together a minute.
    const EACH: Duration = Duration::from_secs(60 / TARGETS.len() as u64);
    const SEED: u64 = 20_261_121;
    /// What parsers treat specially.
    const TOKENS: [&str; 24] = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        "\\u0000",
        "\\ud83d",
        ":",
        ",",
        "\n",
        "\r\n",
        " ",
        "null",
        "true",
        "-0",
        "1e400",
        "99999999999999999999",
        "\u{0}",
        "\u{feff}",
        "\u{10ffff}",
        "{\"v\":1,",
        "\"events\":[",
        "\"event_id\":",
    ];

    fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let files =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut inputs: Vec<_> = files
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", folder.display());
        inputs
    }

    #[test]
    fn every_target_has_a_corpus_and_survives_it() {
        for (name, target) in TARGETS {
            for (path, input) in corpus(name) {
                println!("{}", path.display());
                target(&input);
            }
        }
    }

    /// As many at once as there are cores.
    #[test]
    fn every_target_survives_what_its_corpus_becomes_by_chance() {
        let left = Mutex::new(TARGETS.iter());
        let next = || left.lock().unwrap().next();
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    while let Some((name, target)) = next() {
                        let runs = survives(name, *target);
                        println!("{name}: {runs} inputs");
                    }
                });
            }
        });
    }

    /// Feeds it for its time; how many inputs that were.
    fn survives(name: &str, target: Target) -> u64 {
        let inputs: Vec<Vec<u8>> = corpus(name).into_iter().map(|(_, input)| input).collect();
        let mut random = StdRng::seed_from_u64(SEED);
        let (begun, mut runs) = (Instant::now(), 0);
        while begun.elapsed() < EACH {
            for _ in 0..100 {
                let mut input = inputs[random.random_range(0..inputs.len())].clone();
                for _ in 0..random.random_range(1..6) {
                    change(&mut input, &inputs, &mut random);
                }
                let result = std::panic::catch_unwind(|| target(&input));
                assert!(
                    result.is_ok(),
                    "{name} does not survive {:?}",
                    String::from_utf8_lossy(&input)
                );
                runs += 1;
            }
        }
        runs
    }

    fn change(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut StdRng) {
        let at = random.random_range(0..=input.len());
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 => input.truncate(at),
            2 => {
                let token = TOKENS[random.random_range(0..TOKENS.len())];
                input.splice(at..at, token.bytes());
            }
            3 => {
                let end = (at + random.random_range(0..64)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let end = (at + random.random_range(0..256)).min(input.len());
                let piece = input[at..end].to_vec();
                let to = random.random_range(0..=input.len());
                input.splice(to..to, piece);
            }
            _ => {
                let other = &others[random.random_range(0..others.len())];
                let from = random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}
