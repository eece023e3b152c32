//! `penstock schema plan`.

use std::fmt::Write as _;

use penstock_provision::clickhouse::inspect::{Plan, Step};

use super::end;
use crate::exit::{End, Result};
use crate::output::{Format, note, print};
use crate::stored::Stored;
use crate::text::{count, harmless};

pub async fn run(stored: &Stored, format: Format) -> Result<End> {
    let found = stored.inspect().await?;
    print(format, &found.plan, |plan| text(plan, stored.name()))?;
    // An empty plan does not say why the command ends as it does.
    if found.plan.is_empty() && !found.mutations.is_empty() {
        note(&format!(
            "{} under way; `penstock schema status {}` says more.",
            count(found.mutations.len(), "change"),
            stored.name()
        ));
    }
    Ok(end(&found))
}

pub fn text(plan: &Plan, pipeline: &str) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for step in &plan.steps {
        let _ = writeln!(text, "{}\n", done("by itself", step));
    }
    if let Some(blocked) = &plan.blocked {
        match &blocked.agreement {
            None => {
                let _ = writeln!(
                    text,
                    "The operator waits for a person: {}",
                    harmless(&blocked.message)
                );
            }
            Some(agreement) => {
                let _ = writeln!(text, "-- not before you agree, for it rewrites what is stored:");
                for one in &agreement.statements {
                    let _ = writeln!(text, "{};", statement(one));
                }
                for step in &agreement.steps {
                    let _ = writeln!(text, "\n{}", done("with it", step));
                }
                let _ = writeln!(
                    text,
                    "\nTo agree: penstock schema apply {pipeline} --agree {}",
                    agreement.fingerprint
                );
            }
        }
    }
    match (text.is_empty(), &plan.letters) {
        (true, None) => text.push_str("Nothing to do: the tables are as asked.\n"),
        (true, Some(_)) => text.push_str("Nothing to do: the other tables are as asked.\n"),
        (false, _) => {}
    }
    if let Some(why) = &plan.letters {
        let _ = writeln!(text, "\nDead letters have no table: {}", harmless(why));
    }
    text
}

/// What the operator does, and when.
fn done(when: &str, step: &Step) -> String {
    format!(
        "-- {when}: {}\n{};",
        harmless(&step.does),
        statement(&step.statement)
    )
}

/// With its lines, and no other control character.
fn statement(sql: &str) -> String {
    sql.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use penstock_provision::clickhouse::inspect::{Agreement, Blocked};

    use super::*;

    #[test]
    fn a_plan_says_who_does_what() {
        assert_eq!(
            text(&Plan::default(), "events"),
            "Nothing to do: the tables are as asked.\n"
        );
        let steps = vec![Step {
            statement: "ALTER TABLE `g`.`events` ADD COLUMN `amount` Float64".into(),
            does: "column amount added".into(),
        }];
        let agreement = Agreement {
            fingerprint: "3f9a".into(),
            statements: vec!["ALTER TABLE `g`.`events` MODIFY COLUMN `ip` String".into()],
            steps: vec![Step {
                statement: "ALTER TABLE `g`.`events` ADD COLUMN `city` String".into(),
                does: "column city added".into(),
            }],
        };
        let plan = Plan {
            steps,
            blocked: Some(Blocked {
                message: "differs".into(),
                agreement: Some(agreement),
            }),
            ..Plan::default()
        };
        assert_eq!(
            text(&plan, "events"),
            "-- by itself: column amount added\nALTER TABLE `g`.`events` ADD COLUMN `amount` Float64;\n\n\
             -- not before you agree, for it rewrites what is stored:\nALTER TABLE `g`.`events` MODIFY COLUMN `ip` String;\n\n\
             -- with it: column city added\nALTER TABLE `g`.`events` ADD COLUMN `city` String;\n\n\
             To agree: penstock schema apply events --agree 3f9a\n"
        );
        let plan = Plan {
            steps: Vec::new(),
            blocked: Some(Blocked {
                message: "table g.events belongs to c/ads/events".into(),
                agreement: None,
            }),
            ..Plan::default()
        };
        assert_eq!(
            text(&plan, "events"),
            "The operator waits for a person: table g.events belongs to c/ads/events\n"
        );
        let plan = Plan {
            letters: Some("table g.events_dead_letters exists".into()),
            ..Plan::default()
        };
        assert_eq!(
            text(&plan, "events"),
            "Nothing to do: the other tables are as asked.\n\nDead letters have no table: table g.events_dead_letters exists\n"
        );
        let json = serde_json::to_value(&plan).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"steps": [], "letters": "table g.events_dead_letters exists"})
        );
    }
}
