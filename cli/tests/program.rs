//! The program as a shell and kubectl call it.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_penstock");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .output()
        .expect("it starts")
}

fn printed(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

/// What bash prints that is given a script and then these lines.
fn bash(script: &str, lines: &str) -> Output {
    let mut bash = Command::new("bash")
        .args(["--norc", "--noprofile", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash starts");
    let mut input = bash.stdin.take().expect("piped");
    input
        .write_all(format!("{script}\n{lines}").as_bytes())
        .expect("it reads");
    drop(input);
    bash.wait_with_output().expect("it ends")
}

#[test]
fn bash_completes_commands_and_their_options() {
    let script = run(&["completion", "bash"]);
    assert!(script.status.success());
    for (words, completed) in [
        ("penstock re", &["replay"][..]),
        ("penstock dlq ", &["list", "show", "replay"]),
        ("penstock tail --from-b", &["--from-beginning"]),
        ("penstock replay --output ", &["table", "json", "yaml"]),
    ] {
        // As bash calls what `complete` has registered: the command, the word that is completed, and the one before it.
        let lines = format!(
            "read -r -a COMP_WORDS <<< '{words}'\n\
             [[ '{words}' == *' ' ]] && COMP_WORDS+=('')\n\
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             registered=$(complete -p penstock) && [[ $registered =~ -F\\ ([^ ]+) ]]\n\
             \"${{BASH_REMATCH[1]}}\" penstock \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
        );
        let output = bash(printed(&script), &lines);
        let said = String::from_utf8_lossy(&output.stderr);
        let found: Vec<_> = printed(&output).lines().collect();
        for word in completed {
            assert!(
                found.contains(word),
                "`{words}` does not become {word}: {found:?} {said}"
            );
        }
        assert!(!found.contains(&"status"), "`{words}`: {found:?}");
        assert!(said.is_empty(), "{said}");
    }
}

/// Of shells that are not here it is only known what their scripts speak of.
#[test]
fn every_shell_has_a_script() {
    for (shell, begins, check) in [
        ("bash", "_penstock() {", &["bash", "-n"][..]),
        ("zsh", "#compdef penstock", &["zsh", "-n"]),
        ("fish", "#", &["fish", "--no-execute"]),
        ("elvish", "use builtin;", &["elvish", "-compileonly"]),
        ("powershell", "using namespace System.Management.Automation", &[]),
    ] {
        let script = run(&["completion", shell]);
        let text = printed(&script);
        assert!(
            script.status.success() && text.trim_start().starts_with(begins),
            "{shell}: {text}"
        );
        for word in ["replay", "dlq", "from-beginning", "password-file"] {
            assert!(text.contains(word), "{shell} knows no {word}");
        }
        let [program, arguments @ ..] = check else {
            continue;
        };
        let file = std::env::temp_dir().join(format!("penstock-completion-{}-{shell}", std::process::id()));
        std::fs::write(&file, text).expect("written");
        let checked = Command::new(program).args(arguments).arg(&file).output();
        std::fs::remove_file(&file).expect("removed");
        match checked {
            Ok(output) => assert!(
                output.status.success() && output.stderr.is_empty(),
                "{shell}: {}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(absent) => assert_ne!(shell, "bash", "{absent}"),
        }
    }
}

#[test]
fn as_a_plugin_it_has_the_name_that_people_type() {
    let folder = std::env::temp_dir().join(format!("penstock-plugin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let plugin = folder.join("kubectl-penstock");
    symlink(PROGRAM, &plugin).expect("a link");
    let call = |arguments: &[&str]| {
        let output = Command::new(&plugin).args(arguments).env_clear().output();
        output.expect("it starts")
    };
    let help = call(&["dlq", "replay", "--help"]);
    assert!(
        printed(&help).contains("Usage: kubectl penstock dlq replay [OPTIONS] <PIPELINE>"),
        "{}",
        printed(&help)
    );
    let failed = call(&["status", "--kubeconfig", "/nowhere"]);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        said.starts_with("kubectl penstock: the kubeconfig cannot be used"),
        "{said}"
    );
    std::fs::remove_dir_all(&folder).expect("removed");
    assert!(printed(&run(&["status", "--help"])).contains("Usage: penstock status"));
}

#[test]
fn what_is_called_wrongly_ends_with_2_and_prints_no_result() {
    for arguments in [
        &["replay", "--from", "2h"][..],
        &["replay", "events", "--from", "yesterday"],
        &["tail", "events", "-o", "xml"],
        &["dlq", "replay", "events", "seventeen"],
        &["user", "erase", "u", "--yes", "--dry-run"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}
